// A golden case computed by the scalar kernels of core/ops alone.
#pragma once

#include <algorithm>
#include <limits>

#include "core/ops/convolve.h"
#include "core/ops/encode.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/requantize.h"
#include "core/ops/table.h"
#include "tests/engine/golden_case.h"

namespace qat::golden {

template <class Code>
class Kernels {
 public:
  explicit Kernels(const Case& c) : c_(c) {}

  Result run() const {
    if (c_.op == "conv" || c_.op == "gemm" || c_.op == "gemm_float_output" || c_.op == "low_bit_conv") return conv();
    if (c_.op == "add" || c_.op == "mul") return binary();
    if (c_.op == "concat") return concat();
    if (c_.op == "max_pool" || c_.op == "average_pool") return pool();
    if (c_.op == "global_average_pool") return global_pool();
    if (c_.op == "sigmoid" || c_.op == "leaky_relu") return table();
    if (c_.op == "quantize_linear") return quantize();
    if (c_.op == "dequantize_linear") return dequantize();
    throw Error(fmt::format("unknown op '{}'", c_.op));
  }

 private:
  using Codes = std::vector<Code>;
  static constexpr int32_t kLo = std::numeric_limits<Code>::lowest(), kHi = std::numeric_limits<Code>::max();

  ops::CodeRange range(int32_t zero_point) const { return {.lo = kLo, .hi = kHi, .zero_point = zero_point}; }
  ops::CodeRange range_y() const { return range(c_.zero("y")); }

  static Codes nhwc(const Array& x) { return to_nhwc<Code>(x.codes, x.batch(), x.channels(), x.pixels()); }
  Codes output() const { return Codes(static_cast<size_t>(product(c_.expected.shape))); }
  Result result(const Codes& y) const {
    const Array& e = c_.expected;
    return {.codes = to_nchw<int32_t>(y, e.batch(), e.channels(), e.pixels()), .values = {}, .x_codes = {}};
  }

  ops::ConvGeometry conv_geometry(const Array& x, const Array& w) const {
    ops::ConvGeometry g;
    g.batch = x.batch();
    g.in_c = x.channels();
    g.out_c = w.shape[0];
    if (w.shape.size() == 2) return g;
    const Shape stride = c_.list("stride", {1, 1}), pad = c_.list("pad", {0, 0, 0, 0});
    const Shape dilation = c_.list("dilation", {1, 1});
    g.in_h = x.shape[2], g.in_w = x.shape[3];
    g.kernel_h = w.shape[2], g.kernel_w = w.shape[3];
    g.stride_h = stride[0], g.stride_w = stride[1];
    g.pad_top = pad[0], g.pad_left = pad[1], g.pad_bottom = pad[2], g.pad_right = pad[3];
    g.dilation_h = dilation[0], g.dilation_w = dilation[1];
    g.groups = c_.attributes.value("group", int64_t{1});
    return g;
  }

  std::vector<int16_t> centred_weight() const {
    Array w = c_.input("w");
    for (size_t i = 0; i < w.codes.size(); ++i) {
      w.codes[i] -= pick(c_.zero_list("w"), static_cast<int64_t>(i) / (product(w.shape) / w.shape[0]));
    }
    return to_nhwc<int16_t>(w.codes, w.shape[0], w.shape[1], product(w.shape, 2));
  }

  Result conv() const {
    Array x = c_.input("x");
    const bool low_bit = c_.op == "low_bit_conv";
    if (low_bit) {
      Codes codes(x.values.size());
      ops::encode(x.values.data(), static_cast<int64_t>(codes.size()), c_.scale("x"), range(c_.zero("x")),
                  codes.data());
      const Shape clip = c_.list("clip_x", {kLo, kHi});
      for (Code code : codes) x.codes.push_back(static_cast<int32_t>(std::clamp<int64_t>(code, clip[0], clip[1])));
    }
    const Array& w = c_.input("w");
    const ops::ConvGeometry g = conv_geometry(x, w);
    std::vector<int32_t> acc(static_cast<size_t>(g.rows() * g.out_c));
    QAT_CHECK(acc.size() == static_cast<size_t>(product(c_.expected.shape)), "the output has {} elements", acc.size());
    ops::convolve_reference(g, nhwc(x).data(), c_.zero("x"), centred_weight().data(), acc.data());
    const int32_t* bias = c_.has_bias() ? c_.input("b").codes.data() : nullptr;
    std::vector<float> m;
    for (int64_t c = 0; c < g.out_c; ++c) {
      const float scale = c_.scale("x") * pick(c_.scale_list("w"), c);
      m.push_back(c_.expected.dtype == "float32" ? scale : scale / c_.scale("y"));
    }
    if (c_.expected.dtype == "float32") {
      std::vector<float> y(acc.size());
      ops::dequantize_accumulators(acc.data(), g.rows(), g.out_c, bias, m.data(), y.data());
      return {.codes = {}, .values = y, .x_codes = {}};
    }
    Codes y = output();
    ops::requantize(acc.data(), g.rows(), g.out_c, bias, m.data(), range_y(), y.data());
    Result r = result(y);
    if (!low_bit) return r;
    const Shape clip = c_.list("clip_y", {kLo, kHi});
    for (int32_t& code : r.codes) code = static_cast<int32_t>(std::clamp<int64_t>(code, clip[0], clip[1]));
    r.x_codes = x.codes;
    return r;
  }

  Result binary() const {
    const Operands o(c_);
    const ops::BinaryParams p{.scale_a = c_.scale("a"),
                              .scale_b = c_.scale("b"),
                              .scale_y = c_.scale("y"),
                              .zero_a = c_.zero("a"),
                              .zero_b = c_.zero("b"),
                              .range = range_y()};
    const Codes a = nhwc(o.a), b = nhwc(o.b);
    Codes y = output();
    const auto n = static_cast<int64_t>(y.size());
    const Array& e = c_.expected;
    const bool add = c_.op == "add";
    if (!o.broadcast_a && !o.broadcast_b) {
      add ? ops::add(a.data(), b.data(), n, p, y.data()) : ops::mul(a.data(), b.data(), n, p, y.data());
    } else if (add) {
      ops::add_broadcast(a.data(), o.broadcast_a, b.data(), e.batch(), e.pixels(), e.channels(), p, y.data());
    } else if (o.broadcast_b) {
      ops::mul_broadcast(a.data(), b.data(), e.batch(), e.pixels(), e.channels(), p, y.data());
    } else {
      const ops::BinaryParams q{.scale_a = p.scale_b,
                                .scale_b = p.scale_a,
                                .scale_y = p.scale_y,
                                .zero_a = p.zero_b,
                                .zero_b = p.zero_a,
                                .range = p.range};
      ops::mul_broadcast(b.data(), a.data(), e.batch(), e.pixels(), e.channels(), q, y.data());
    }
    return result(y);
  }

  Result concat() const {
    std::vector<int32_t> y;
    const Shape& shape = c_.expected.shape;
    const int64_t axis = c_.axis(static_cast<int64_t>(shape.size()));
    const Slices whole(shape, axis);
    std::vector<Codes> parts;
    for (const std::string& name : concat_inputs(c_)) {
      const Array& x = c_.input(name);
      Codes codes(x.codes.begin(), x.codes.end());
      const auto table = ops::concat_table<Code>(c_.scale(name), c_.zero(name), c_.scale("y"), range_y());
      ops::lookup(codes.data(), static_cast<int64_t>(codes.size()), table.data(), codes.data());
      parts.push_back(codes);
    }
    for (int64_t o = 0; o < whole.outer; ++o) {
      for (const Codes& part : parts) {
        const auto size = static_cast<int64_t>(part.size()) / whole.outer;
        y.insert(y.end(), part.begin() + o * size, part.begin() + (o + 1) * size);
      }
    }
    return {.codes = y, .values = {}, .x_codes = {}};
  }

  Result pool() const {
    const Array& x = c_.input("x");
    ops::PoolGeometry g;
    const Shape kernel = c_.list("kernel", {1, 1}), stride = c_.list("stride", {1, 1});
    const Shape pad = c_.list("pad", {0, 0, 0, 0}), dilation = c_.list("dilation", {1, 1});
    g.batch = x.batch(), g.channels = x.channels();
    g.in_h = x.shape.at(2), g.in_w = x.shape.at(3);
    g.kernel_h = kernel[0], g.kernel_w = kernel[1];
    g.stride_h = stride[0], g.stride_w = stride[1];
    g.pad_top = pad[0], g.pad_left = pad[1], g.pad_bottom = pad[2], g.pad_right = pad[3];
    g.dilation_h = dilation[0], g.dilation_w = dilation[1];
    g.ceil_mode = c_.flag("ceil_mode");
    QAT_CHECK((Shape{g.batch, g.channels, g.out_h(), g.out_w()}) == c_.expected.shape, "the output is {}x{}", g.out_h(),
              g.out_w());
    Codes y = output();
    if (c_.op == "max_pool") {
      ops::max_pool(g, nhwc(x).data(), y.data());
    } else {
      ops::average_pool(g, c_.flag("count_include_pad"), nhwc(x).data(), c_.scale("x"), c_.zero("x"), c_.scale("y"),
                        range_y(), y.data());
    }
    return result(y);
  }

  Result global_pool() const {
    const Array& x = c_.input("x");
    Codes y = output();
    ops::global_average_pool(nhwc(x).data(), x.batch(), x.pixels(), x.channels(), c_.scale("x"), c_.zero("x"),
                             c_.scale("y"), range_y(), y.data());
    return result(y);
  }

  Result table() const {
    const float alpha = c_.op == "leaky_relu" ? parse_float(c_.attributes.at("alpha")) : 0;
    const bool sigmoid = c_.op == "sigmoid";
    const auto table = ops::function_table<Code>(c_.scale("x"), c_.zero("x"), c_.scale("y"), range_y(), [&](float v) {
      return sigmoid ? ops::sigmoid(v) : ops::leaky_relu(v, alpha);
    });
    Codes y = output();
    ops::lookup(nhwc(c_.input("x")).data(), static_cast<int64_t>(y.size()), table.data(), y.data());
    return result(y);
  }

  Result quantize() const {
    const Array& x = c_.input("x");
    const std::vector<float>& scales = c_.scale_list("y");
    const Slices slices = Slices::of(c_, x, scales.size());
    Result r;
    r.codes.resize(x.values.size());
    for (int64_t i = 0; i < slices.channels; ++i) {
      const std::vector<float> values = slices.take(x.values, i);
      Codes y(values.size());
      ops::encode(values.data(), static_cast<int64_t>(y.size()), pick(scales, i), range(pick(c_.zero_list("y"), i)),
                  y.data());
      slices.put(y, i, r.codes);
    }
    return r;
  }

  Result dequantize() const {
    const Array& x = c_.input("x");
    const std::vector<float>& scales = c_.scale_list("x");
    const Slices slices = Slices::of(c_, x, scales.size());
    Result r;
    r.values.resize(x.codes.size());
    for (int64_t i = 0; i < slices.channels; ++i) {
      const std::vector<int32_t> taken = slices.take(x.codes, i);
      const float scale = pick(scales, i);
      const int32_t zero = pick(c_.zero_list("x"), i);
      std::vector<float> y(taken.size());
      const auto n = static_cast<int64_t>(taken.size());
      if (x.dtype == "int32") {
        const int32_t bias = -zero;
        for (size_t k = 0; k < taken.size(); ++k) ops::dequantize_accumulators(&taken[k], 1, 1, &bias, &scale, &y[k]);
      } else {
        ops::dequantize(Codes(taken.begin(), taken.end()).data(), n, scale, zero, y.data());
      }
      slices.put(y, i, r.values);
    }
    return r;
  }

  const Case& c_;
};

}  // namespace qat::golden
