#include "core/ops/table.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/autograd/functions.h"
#include "core/autograd/node.h"
#include "core/base/error.h"
#include "core/ops/pointwise.h"

namespace qat::autograd {
namespace {

using at::Tensor;

constexpr int kCodes = 256;

/// What backward needs to know of each of the input's codes.
struct Slopes {
  std::array<float, kCodes> to_input;  // dL/d(input) over the gradient at the output
  std::array<float, kCodes> to_scale;  // dL/d(output scale) over the same (ARITHMETIC section 2)
};

Slopes slopes_of(const QuantizedTensor& x, const TableFunction& f, float scale_y, const ops::CodeRange& range) {
  Slopes slopes{};
  const double lo = range.lo - range.zero_point, hi = range.hi - range.zero_point;
  for (int q = 0; q < kCodes; ++q) {
    const float real = x.scale() * static_cast<float>(q - x.zero_point());
    const double t = f.value(real) / scale_y;
    const bool inside = t >= lo && t <= hi;
    const auto i = static_cast<size_t>(q);
    slopes.to_input[i] = inside ? static_cast<float>(f.derivative(real)) : 0.0f;
    slopes.to_scale[i] = static_cast<float>(inside ? std::nearbyint(t) - t : std::clamp(t, lo, hi));
  }
  return slopes;
}

/// Smallest and largest f(value) of the codes that occur.
std::pair<double, double> range_of(const QuantizedTensor& x, const TableFunction& f) {
  std::array<bool, kCodes> seen{};
  const uint8_t* codes = x.codes().const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < x.codes().numel(); ++i) seen[codes[i]] = true;
  double lo = std::numeric_limits<double>::infinity(), hi = -lo;
  for (int q = 0; q < kCodes; ++q) {
    if (!seen[static_cast<size_t>(q)]) continue;
    const double v = f.value(x.scale() * static_cast<float>(q - x.zero_point()));
    lo = std::min(lo, v);
    hi = std::max(hi, v);
  }
  return {lo, hi};
}

Tensor look_up(const QuantizedTensor& x, const std::vector<int16_t>& table) {
  Tensor codes = empty_kernel_layout(x.sizes(), at::kByte);
  ops::lookup(x.codes().const_data_ptr<uint8_t>(), codes.numel(), table.data(), codes.mutable_data_ptr<uint8_t>());
  return codes;
}

/// Tables along channels; a function of one tensor is a concatenation of one.
struct TableBackward final : Backward {
  std::string operation;
  std::vector<KeptCodes> codes;  // of the inputs
  std::vector<Slopes> slopes;
  bool learn = false;
  double gradient_scale = 1;

  std::string name() const override { return operation; }

  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override {
    std::vector<Tensor> result(needed.size());
    int64_t begin = 0;
    double ds = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      const Tensor of_input = codes[i].codes();
      const int64_t channels = of_input.size(1);
      const Tensor part = kernel_layout(grad.narrow(1, begin, channels));
      begin += channels;
      const uint8_t* q = of_input.const_data_ptr<uint8_t>();
      const float* g = part.const_data_ptr<float>();
      if (needed[i]) {
        result[i] = empty_kernel_layout(part.sizes(), at::kFloat);
        float* dx = result[i].mutable_data_ptr<float>();
        for (int64_t j = 0; j < part.numel(); ++j) dx[j] = g[j] * slopes[i].to_input[q[j]];
      }
      if (learn && needed.back()) {
        for (int64_t j = 0; j < part.numel(); ++j) ds += static_cast<double>(g[j]) * slopes[i].to_scale[q[j]];
      }
    }
    if (learn && needed.back()) result.back() = at::empty({1}, at::kFloat).fill_(ds * gradient_scale);
    return result;
  }
};

/// make: the table of one input.
QuantizedTensor tables(std::string operation, const std::vector<QuantizedTensor>& inputs, const TableFunction& f,
                       const OutputQuantizer& output,
                       const std::function<std::vector<int16_t>(const QuantizedTensor&)>& make) {
  std::vector<Tensor> handles;
  for (const QuantizedTensor& x : inputs) handles.push_back(x.handle());
  if (output.learns()) handles.push_back(output.scale);
  if (output.observe) {
    double lo = std::numeric_limits<double>::infinity(), hi = -lo;
    for (const QuantizedTensor& x : inputs) {
      const auto [a, b] = range_of(x, f);
      lo = std::min(lo, a);
      hi = std::max(hi, b);
    }
    output.observe(lo, hi);
  }
  const bool record = needs_gradient(handles);
  auto saved = std::make_unique<TableBackward>();
  saved->operation = std::move(operation);
  std::vector<Tensor> parts;
  for (const QuantizedTensor& x : inputs) {
    if (record) saved->codes.push_back(x.kept());
    saved->slopes.push_back(slopes_of(x, f, output.scale_value(), output.range()));
    parts.push_back(look_up(x, make(x)));
  }
  Tensor codes = parts.size() == 1 ? parts[0] : kernel_layout(at::cat(parts, 1));
  saved->learn = output.learns();
  saved->gradient_scale = output.gradient_scale_of(codes);
  Tensor handle = make_handle(codes.sizes());
  return {codes, output.scale_value(), output.range(), connect(handle, handles, std::move(saved))};
}

}  // namespace

QuantizedTensor concat(const std::vector<QuantizedTensor>& inputs, const OutputQuantizer& output) {
  QAT_CHECK(!inputs.empty(), "a concatenation needs inputs");
  const TableFunction identity{"identity", [](float v) { return v; }, [](double) { return 1.0; }};
  return tables("qat::concat", inputs, identity, output, [&](const QuantizedTensor& x) {
    return ops::concat_table<uint8_t>(x.scale(), x.zero_point(), output.scale_value(), output.range());
  });
}

QuantizedTensor table(const QuantizedTensor& x, const TableFunction& f, const OutputQuantizer& output) {
  return tables("qat::" + f.name, {x}, f, output, [&](const QuantizedTensor& input) {
    return ops::function_table<uint8_t>(input.scale(), input.zero_point(), output.scale_value(), output.range(),
                                        f.value);
  });
}

}  // namespace qat::autograd
