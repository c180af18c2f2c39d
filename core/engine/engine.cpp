#include "core/engine/engine.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "core/base/error.h"
#include "core/ops/convolve.h"
#include "core/ops/encode.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/requantize.h"
#include "core/ops/table.h"

namespace qat::engine {
namespace {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;

// int8 codes travel as their bit patterns; signed and unsigned char may alias each other.
template <class Code>
const Code* codes(const Value& value) {
  return reinterpret_cast<const Code*>(value.codes.data());
}
template <class Code>
Code* codes(Value& value) {
  return reinterpret_cast<Code*>(value.codes.data());
}

ops::CodeRange range(const Tensor& t) { return {.lo = t.lo, .hi = t.hi, .zero_point = t.zero_point}; }

int64_t channels(const Tensor& t) { return t.shape[0]; }
int64_t pixels(const Tensor& t) { return t.size() / t.shape[0]; }

ops::ConvGeometry conv_geometry(const Node& node, const Tensor& x, const Tensor& y) {
  ops::ConvGeometry g;
  g.in_c = channels(x);
  g.out_c = channels(y);
  if (node.op == Op::kLinear) return g;
  g.in_h = x.shape[1];
  g.in_w = x.shape[2];
  std::tie(g.kernel_h, g.kernel_w) = std::pair(node.kernel[0], node.kernel[1]);
  std::tie(g.stride_h, g.stride_w) = std::pair(node.stride[0], node.stride[1]);
  std::tie(g.dilation_h, g.dilation_w) = std::pair(node.dilation[0], node.dilation[1]);
  std::tie(g.pad_top, g.pad_left) = std::pair(node.pad[0], node.pad[1]);
  std::tie(g.pad_bottom, g.pad_right) = std::pair(node.pad[2], node.pad[3]);
  g.groups = node.groups;
  return g;
}

ops::PoolGeometry pool_geometry(const Node& node, const Tensor& x, int64_t batch) {
  ops::PoolGeometry g;
  g.batch = batch;
  g.channels = channels(x);
  g.in_h = x.shape[1];
  g.in_w = x.shape[2];
  std::tie(g.kernel_h, g.kernel_w) = std::pair(node.kernel[0], node.kernel[1]);
  std::tie(g.stride_h, g.stride_w) = std::pair(node.stride[0], node.stride[1]);
  std::tie(g.dilation_h, g.dilation_w) = std::pair(node.dilation[0], node.dilation[1]);
  std::tie(g.pad_top, g.pad_left) = std::pair(node.pad[0], node.pad[1]);
  std::tie(g.pad_bottom, g.pad_right) = std::pair(node.pad[2], node.pad[3]);
  g.ceil_mode = node.ceil_mode;
  return g;
}

/// OIHW codes -> [o][h][w][i], zero points subtracted.
std::vector<int16_t> pack(const integer::Weight& w) {
  const auto out = static_cast<size_t>(w.shape[0]), in = static_cast<size_t>(w.shape[1]);
  const size_t taps = w.codes.size() / (out * in);
  std::vector<int16_t> packed(w.codes.size());
  for (size_t o = 0; o < out; ++o) {
    const int32_t zero = w.zero_point[w.zero_point.size() == 1 ? 0 : o];
    for (size_t i = 0; i < in; ++i) {
      for (size_t k = 0; k < taps; ++k) {
        packed[(o * taps + k) * in + i] = static_cast<int16_t>(w.codes[(o * in + i) * taps + k] - zero);
      }
    }
  }
  return packed;
}

std::vector<int16_t> concat_table(const Tensor& x, const Tensor& y) {
  return y.type == CodeType::kInt8 ? ops::concat_table<int8_t>(x.scale, x.zero_point, y.scale, range(y))
                                   : ops::concat_table<uint8_t>(x.scale, x.zero_point, y.scale, range(y));
}

/// {C, H, W} stored NHWC -> NCHW order.
template <class Code>
void flatten(const Code* x, int64_t batch, int64_t channels, int64_t pixels, Code* y) {
  for (int64_t n = 0; n < batch; ++n, x += channels * pixels, y += channels * pixels) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) y[c * pixels + p] = x[p * channels + c];
    }
  }
}

}  // namespace

Engine::Engine(integer::IntegerModel model) : model_(std::move(model)) {
  model_.check();
  prepared_.resize(model_.nodes.size());
  std::vector<char> needed(model_.tensors.size(), 0);
  for (int i : model_.outputs) needed[static_cast<size_t>(i)] = 1;
  for (size_t n = model_.nodes.size(); n-- > 0;) {
    const Node& node = model_.nodes[n];
    Prepared& prepared = prepared_[n];
    if (node.op == Op::kConv || node.op == Op::kLinear) {
      prepared.weight = pack(node.weight);
      prepared.multiplier = model_.multipliers(node);
    }
    if (node.op == Op::kConcat) {
      for (int i : node.inputs) prepared.tables.push_back(concat_table(tensor(i), tensor(node.output)));
    }
    for (int i : node.inputs) {
      if (!std::exchange(needed[static_cast<size_t>(i)], 1)) prepared.last_uses.push_back(i);
    }
  }
}

void Engine::check_input(const Tensor& t, const Value& value, int64_t batch) const {
  const bool floating = t.type == CodeType::kFloat32;
  const size_t found = floating ? value.values.size() : value.codes.size();
  const size_t other = floating ? value.codes.size() : value.values.size();
  QAT_CHECK(value.batch == batch && batch >= 1 && batch <= std::numeric_limits<int64_t>::max() / t.size(),
            "input {}: expected a batch of {} (at least 1), found {}", t.name, batch, value.batch);
  QAT_CHECK(found == static_cast<size_t>(batch * t.size()) && other == 0,
            "input {}: expected {} {} ({} samples of {}) and nothing else, found {} (and {} of the other kind)", t.name,
            batch * t.size(), floating ? "values" : "codes", batch, t.size(), found, other);
  for (uint8_t byte : value.codes) {
    const int32_t code = t.type == CodeType::kInt8 ? static_cast<int8_t>(byte) : byte;
    QAT_CHECK(code >= t.lo && code <= t.hi, "input {}: code {} lies outside [{}, {}]", t.name, code, t.lo, t.hi);
  }
}

std::vector<Value> Engine::run(const std::vector<Value>& inputs, const Observer& observer) const {
  QAT_CHECK(inputs.size() == model_.inputs.size(), "expected {} inputs, found {}", model_.inputs.size(), inputs.size());
  std::vector<Value> values(model_.tensors.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int index = model_.inputs[i];
    check_input(tensor(index), inputs[i], inputs[0].batch);
    values[static_cast<size_t>(index)] = inputs[i];
    if (observer) observer(index, inputs[i]);
  }
  for (size_t n = 0; n < model_.nodes.size(); ++n) {
    const Node& node = model_.nodes[n];
    const bool is_int8 = tensor(node.inputs[0]).type == CodeType::kInt8 || tensor(node.output).type == CodeType::kInt8;
    Value y = is_int8 ? compute<int8_t>(node, prepared_[n], values) : compute<uint8_t>(node, prepared_[n], values);
    if (observer) observer(node.output, y);
    values[static_cast<size_t>(node.output)] = std::move(y);
    for (int i : prepared_[n].last_uses) values[static_cast<size_t>(i)] = Value();
  }
  std::vector<Value> outputs;
  for (int i : model_.outputs) outputs.push_back(values[static_cast<size_t>(i)]);
  return outputs;
}

template <class Code>
Value Engine::compute(const Node& node, const Prepared& prepared, const std::vector<Value>& values) const {
  const Value& x = values[static_cast<size_t>(node.inputs[0])];
  const Tensor &tx = tensor(node.inputs[0]), &ty = tensor(node.output);
  const int64_t size = x.batch * ty.size();
  Value y{.batch = x.batch, .codes = {}, .values = {}};
  if (ty.type == CodeType::kFloat32) {
    y.values.resize(static_cast<size_t>(size));
  } else {
    y.codes.resize(static_cast<size_t>(size));
  }
  switch (node.op) {
    case Op::kQuantize:
      ops::encode(x.values.data(), size, ty.scale, range(ty), codes<Code>(y));
      break;
    case Op::kDequantize:
      ops::dequantize(codes<Code>(x), size, tx.scale, tx.zero_point, y.values.data());
      break;
    case Op::kConv:
    case Op::kLinear:
      convolve<Code>(node, prepared, x, y);
      break;
    case Op::kAdd:
    case Op::kMul:
      combine<Code>(node, values, y);
      break;
    case Op::kMaxPool:
      ops::max_pool(pool_geometry(node, tx, x.batch), codes<Code>(x), codes<Code>(y));
      break;
    case Op::kAveragePool:
      ops::average_pool(pool_geometry(node, tx, x.batch), node.count_include_pad, codes<Code>(x), tx.scale,
                        tx.zero_point, ty.scale, range(ty), codes<Code>(y));
      break;
    case Op::kGlobalAveragePool:
      ops::global_average_pool(codes<Code>(x), x.batch, pixels(tx), channels(tx), tx.scale, tx.zero_point, ty.scale,
                               range(ty), codes<Code>(y));
      break;
    case Op::kConcat:
      concat<Code>(node, prepared, values, y);
      break;
    case Op::kTable:
      ops::lookup(codes<Code>(x), size, node.table.data(), codes<Code>(y));
      break;
    case Op::kRelu:
      ops::relu(codes<Code>(x), size, tx.zero_point, codes<Code>(y));
      break;
    case Op::kFlatten:
      flatten(codes<Code>(x), x.batch, channels(tx), pixels(tx), codes<Code>(y));
      break;
  }
  return y;
}

template <class Code>
void Engine::convolve(const Node& node, const Prepared& prepared, const Value& x, Value& y) const {
  const Tensor &tx = tensor(node.inputs[0]), &ty = tensor(node.output);
  ops::ConvGeometry g = conv_geometry(node, tx, ty);
  // As many samples at a time as keep the accumulators within 8 MiB.
  constexpr int64_t kAccumulators = int64_t{1} << 21;
  const int64_t step = std::clamp<int64_t>(kAccumulators / ty.size(), 1, x.batch);
  std::vector<int32_t> acc(static_cast<size_t>(step * ty.size()));
  const int32_t* bias = node.bias.empty() ? nullptr : node.bias.data();
  for (int64_t n = 0; n < x.batch; n += step) {
    g.batch = std::min(step, x.batch - n);
    ops::convolve(g, codes<Code>(x) + n * tx.size(), tx.zero_point, prepared.weight.data(), acc.data());
    const int64_t at = n * ty.size();
    if (ty.type == CodeType::kFloat32) {
      ops::dequantize_accumulators(acc.data(), g.rows(), g.out_c, bias, prepared.multiplier.data(),
                                   y.values.data() + at);
    } else {
      ops::requantize(acc.data(), g.rows(), g.out_c, bias, prepared.multiplier.data(), range(ty), codes<Code>(y) + at);
    }
  }
}

template <class Code>
void Engine::combine(const Node& node, const std::vector<Value>& values, Value& y) const {
  int ia = node.inputs[0], ib = node.inputs[1];
  const Tensor& ty = tensor(node.output);
  const bool broadcast_a = tensor(ia).shape != ty.shape, broadcast_b = tensor(ib).shape != ty.shape;
  if (node.op == Op::kMul && broadcast_a) std::swap(ia, ib);
  const Tensor &ta = tensor(ia), &tb = tensor(ib);
  const Code *a = codes<Code>(values[static_cast<size_t>(ia)]), *b = codes<Code>(values[static_cast<size_t>(ib)]);
  const ops::BinaryParams p{.scale_a = ta.scale,
                            .scale_b = tb.scale,
                            .scale_y = ty.scale,
                            .zero_a = ta.zero_point,
                            .zero_b = tb.zero_point,
                            .range = range(ty)};
  const bool is_broadcast = broadcast_a || broadcast_b;
  if (node.op == Op::kAdd && is_broadcast) {
    ops::add_broadcast(a, broadcast_a, b, y.batch, pixels(ty), channels(ty), p, codes<Code>(y));
  } else if (node.op == Op::kAdd) {
    ops::add(a, b, y.batch * ty.size(), p, codes<Code>(y));
  } else if (is_broadcast) {
    ops::mul_broadcast(a, b, y.batch, pixels(ty), channels(ty), p, codes<Code>(y));
  } else {
    ops::mul(a, b, y.batch * ty.size(), p, codes<Code>(y));
  }
}

template <class Code>
void Engine::concat(const Node& node, const Prepared& prepared, const std::vector<Value>& values, Value& y) const {
  const Tensor& ty = tensor(node.output);
  const int64_t rows = y.batch * pixels(ty);
  int64_t offset = 0;
  for (size_t k = 0; k < node.inputs.size(); ++k) {
    const int64_t width = channels(tensor(node.inputs[k]));
    std::vector<Code> mapped(static_cast<size_t>(rows * width));
    ops::lookup(codes<Code>(values[static_cast<size_t>(node.inputs[k])]), rows * width, prepared.tables[k].data(),
                mapped.data());
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(mapped.data() + r * width, width, codes<Code>(y) + r * channels(ty) + offset);
    }
    offset += width;
  }
}

}  // namespace qat::engine
