#include "core/autograd/conv_backward.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "core/base/pass_timer.h"
#include "core/ops/convolve.h"
#include "core/ops/convolve_gradient.h"
#include "core/ops/convolve_saturating.h"
#include "core/ops/encode.h"
#include "core/ops/nibbles.h"
#include "core/ops/requantize.h"
#include "core/ops/scratch.h"
#include "core/ops/spread.h"
#include "core/ops/weight_codes.h"

namespace qat::autograd {
namespace {

using at::Tensor;

/// [C] -> [C, 1, 1, 1] or [C, 1], to scale a weight's rows.
Tensor per_row(const Tensor& v, int64_t dims) {
  std::vector<int64_t> sizes(dims, 1);
  sizes[0] = v.numel();
  return v.view(sizes);
}

/// Whether the gradients are ours; a one-dimensional convolution is a two-dimensional one of height 1.
bool has_own_gradients(size_t dims, const ConvCall& call) { return dims <= 4 && !call.geometry.transposed; }

ops::ConvGeometry kernel_geometry(at::IntArrayRef x, at::IntArrayRef w, const ConvCall& call) {
  ops::ConvGeometry g;
  g.batch = x[0];
  g.in_c = x[1];
  g.out_c = w[0];
  g.groups = call.geometry.groups;
  if (x.size() == 2) return g;
  const auto& [stride, padding, dilation, output_padding, groups, transposed] = call.geometry;
  g.in_w = x.back(), g.kernel_w = w.back(), g.stride_w = stride.back(), g.dilation_w = dilation.back();
  g.pad_left = g.pad_right = padding.back();
  if (x.size() == 4) {
    g.in_h = x[2], g.kernel_h = w[2], g.stride_h = stride[0], g.dilation_h = dilation[0];
    g.pad_top = g.pad_bottom = padding[0];
  }
  QAT_CHECK(g.out_h() > 0 && g.out_w() > 0, "{}: a {}x{} input is too small for its kernel", call.name, g.in_h, g.in_w);
  return g;
}

/// The same of a transposed convolution, whose input has been spread.
ops::ConvGeometry spread_kernel_geometry(const ops::SpreadGeometry& x, at::IntArrayRef w, const ConvGeometry& call) {
  ops::ConvGeometry g;
  g.batch = x.batch, g.in_c = x.channels, g.in_h = x.out_h(), g.in_w = x.out_w();
  g.out_c = w[0], g.groups = call.groups;
  g.kernel_w = w.back(), g.dilation_w = call.dilation.back();
  if (w.size() == 4) g.kernel_h = w[2], g.dilation_h = call.dilation[0];
  return g;
}

std::vector<int64_t> output_padding_of(const ConvCall& call) {
  const ConvGeometry& g = call.geometry;
  return g.output_padding.empty() ? std::vector<int64_t>(g.stride.size(), 0) : g.output_padding;
}

}  // namespace

ops::SpreadGeometry spread_geometry(const ConvGeometry& geometry, at::IntArrayRef x, at::IntArrayRef kernel) {
  const auto& [stride, padding, dilation, output_padding, groups, transposed] = geometry;
  // What the flipped kernel reads before the first pixel, and behind the last one.
  const auto before = [&](size_t d) { return dilation[d] * (kernel[d] - 1) - padding[d]; };
  const auto after = [&](size_t d) { return before(d) + (output_padding.empty() ? 0 : output_padding[d]); };
  ops::SpreadGeometry g{.batch = x[0], .in_w = x.back(), .channels = x[1], .step_w = stride.back()};
  const size_t last = kernel.size() - 1;
  g.pad_left = before(last), g.pad_right = after(last);
  if (kernel.size() == 1) return g;
  g.in_h = x[2], g.step_h = stride[0];
  g.pad_top = before(0), g.pad_bottom = after(0);
  return g;
}

Accumulators run_convolution(const ConvCall& call, const Tensor& x_codes, const ops::CodeRange& x_range,
                             const Tensor& w_codes, bool narrow) {
  const int32_t zero_point = x_range.zero_point;
  if (x_codes.dim() <= 4) {
    const bool transposed = call.geometry.transposed;
    Tensor x_map = x_codes, weight = w_codes;
    ops::ConvGeometry g;
    if (transposed) {
      const ops::SpreadGeometry spread = spread_geometry(call.geometry, x_codes.sizes(), w_codes.sizes().slice(2));
      QAT_CHECK(spread.out_h() > 0 && spread.out_w() > 0, "{}: its padding leaves nothing of the output", call.name);
      x_map = at::empty({spread.batch, spread.out_h(), spread.out_w(), spread.channels}, at::kByte);
      ops::spread(spread, x_codes.const_data_ptr<uint8_t>(), static_cast<uint8_t>(zero_point),
                  x_map.mutable_data_ptr<uint8_t>());
      std::vector<int64_t> spatial(w_codes.dim() - 2);
      std::iota(spatial.begin(), spatial.end(), 2);
      weight = kernel_layout(w_codes.flip(spatial));
      g = spread_kernel_geometry(spread, w_codes.sizes(), call.geometry);
    } else {
      g = kernel_geometry(x_codes.sizes(), w_codes.sizes(), call);
    }
    Accumulators acc{.values = {}, .sizes = {g.batch, g.out_c}, .statistics = {}};
    if (x_codes.dim() == 4) acc.sizes.push_back(g.out_h());
    if (x_codes.dim() >= 3) acc.sizes.push_back(g.out_w());
    const PassTimer timer("convolution");
    if (call.saturates && !ops::never_saturates(g)) {
      acc.values = at::empty({g.rows(), g.out_c}, at::kInt);
      ops::SaturatingConvolution(g, weight.const_data_ptr<int8_t>(), zero_point)
          .accumulate(x_map.const_data_ptr<uint8_t>(), g.batch, acc.values.mutable_data_ptr<int32_t>());
      return acc;
    }
    const ops::PackedConvolution<uint8_t> packed(g, weight.const_data_ptr<int8_t>(), zero_point, x_range.hi);
    const uint8_t* x = x_map.const_data_ptr<uint8_t>();
    if (narrow && packed.fits_int16()) {
      acc.values = at::empty({g.rows(), g.out_c}, at::kShort);
      packed.accumulate(x, g.batch, acc.values.mutable_data_ptr<int16_t>(), &acc.statistics.emplace());
    } else {
      acc.values = at::empty({g.rows(), g.out_c}, at::kInt);
      packed.accumulate(x, g.batch, acc.values.mutable_data_ptr<int32_t>());
    }
    return acc;
  }
  QAT_CHECK(!call.saturates,
            "{}: how sums saturate is known of one- and two-dimensional convolutions only: set quantization.overflow to "
            "exact",
            call.name);
  // float64 holds every sum of products of codes exactly.
  const ConvGeometry& g = call.geometry;
  const Tensor w = w_codes.to(at::kDouble);
  const Tensor y =
      at::convolution(x_codes.to(at::kDouble).sub_(zero_point), g.transposed ? output_first(w, g.groups) : w, Tensor(),
                      g.stride, g.padding, g.dilation, g.transposed, output_padding_of(call), g.groups);
  return {y.movedim(1, -1).reshape({-1, y.size(1)}).to(at::kInt), y.sizes().vec(), {}};
}

Tensor ConvBackward::weight_codes() const {
  if (w_codes.defined()) return w_codes;
  const auto* source = dynamic_cast<const RemakesCodes*>(backward_of(weight));
  QAT_CHECK(source != nullptr, "{}: the weight's part of the graph was freed before this layer's", name());
  const Tensor raw = source->codes();
  if (!p.empty()) return raw;
  const ops::Folded folded = fold({raw, raw_scale, Tensor()}, call, x_scale);
  Tensor codes = empty_kernel_layout(w_sizes, at::kChar);
  std::copy(folded.codes.begin(), folded.codes.end(), codes.mutable_data_ptr<int8_t>());
  return codes;
}

std::vector<Tensor> ConvBackward::apply(const Tensor& grad, const std::vector<bool>& needed) {
  const int64_t channels = w_sizes[0];
  const int64_t rows = channels == 0 ? 0 : grad.numel() / channels;
  const float* g = grad.const_data_ptr<float>();
  const uint8_t* bits = inside.defined() ? inside.const_data_ptr<uint8_t>() : nullptr;

  ops::KeptAccumulators acc;
  // The gradient of the weight alone needs no codes of it.
  const bool own = has_own_gradients(w_sizes.size(), call);
  const Tensor codes = recompute || needed[0] || !own ? weight_codes() : Tensor();
  if (recompute) kept = run_convolution(call, kept_x.codes(), x_range, codes, narrow).values;
  if (kept.defined()) {
    if (kept.scalar_type() == at::kShort) {
      acc.compact = kept.const_data_ptr<int16_t>();
      acc.middle = middle.const_data_ptr<int32_t>();
      acc.step = step.const_data_ptr<float>();
    } else {
      acc.exact = kept.const_data_ptr<int32_t>();
    }
  }

  // Inputs in order: x, w, [bias], [gamma, beta], [output scale].
  std::vector<Tensor> result(needed.size());
  size_t next = 2;
  const size_t bias_at = has_bias ? next++ : 0, gamma_at = has_norm ? next : 0, beta_at = has_norm ? next + 1 : 0;
  if (has_norm) next += 2;
  const bool live = !p.empty(), learning = learn && needed[next];
  std::vector<double> s1(channels), s2(channels);
  double scale_sum = 0;
  {
    const PassTimer timer("sums of gradients");
    const ops::ScaleGradient scale{.codes = kept_y.stored(),
                                   .multiplier = multiplier.data(),
                                   .offset = offset.empty() ? nullptr : offset.data(),
                                   .range = y_range,
                                   .sum = &scale_sum};
    ops::reduce_gradient(g, bits, acc, rows, channels, s1.data(), live || learning ? s2.data() : nullptr,
                         learning ? &scale : nullptr);
  }
  if (learning) result[next] = to_tensor(std::vector<float>{static_cast<float>(scale_sum * gradient_scale)});

  MakeRows make;
  std::vector<float> a, b, c;
  if (live) {
    a.resize(channels), b.resize(channels), c.resize(channels);
    std::vector<double> dgamma(channels);
    for (int64_t i = 0; i < channels; ++i) {
      dgamma[i] = p[i] * s2[i] + q[i] * s1[i];
      a[i] = static_cast<float>(gain[i]);
      if (statistics == LiveStatistics::kRunning) continue;  // constants
      const double per_row_of = 1.0 / static_cast<double>(rows);
      b[i] = static_cast<float>(-gain[i] * p[i] * dgamma[i] * per_row_of);
      c[i] = static_cast<float>(-gain[i] * (s1[i] + q[i] * dgamma[i]) * per_row_of);
    }
    make = [&](int64_t first, int64_t count, float* into) {
      const PassTimer timer("batch norm's gradient");
      const int64_t at = first * channels;
      ops::KeptAccumulators some = acc;
      if (some.compact != nullptr) some.compact += at;
      if (some.exact != nullptr) some.exact += at;
      ops::batch_norm_gradient(g + at, bits == nullptr ? nullptr : bits + at / 8, some, count, channels, a.data(),
                               b.data(), c.data(), into);
    };
    if (needed[gamma_at]) result[gamma_at] = to_float_tensor(dgamma);
    if (needed[beta_at]) result[beta_at] = to_float_tensor(s1);
    if (has_bias && needed[bias_at]) {
      // The batch mean takes the bias away again.
      const double through = statistics == LiveStatistics::kRunning ? 1.0 : 0.0;
      for (int64_t i = 0; i < channels; ++i) s1[i] *= through * gain[i];
      result[bias_at] = to_float_tensor(s1);
    }
  } else {
    if (bits != nullptr) {
      make = [&](int64_t first, int64_t count, float* into) {
        const PassTimer timer("masked gradient");
        const int64_t at = first * channels;
        ops::mask_gradient(g + at, bits + at / 8, count * channels, into);
      };
    }
    if (has_norm && needed[beta_at]) result[beta_at] = to_float_tensor(s1);
    if (has_bias && needed[bias_at]) {
      for (int64_t i = 0; i < channels; ++i) s1[i] *= k[i];
      result[bias_at] = to_float_tensor(s1);
    }
  }

  if (needed[0] || needed[1]) add_convolution_gradients(grad, make, codes, needed, result);
  return result;
}

namespace {

/// A convolution in parts: some images, or some pixels where it has no map.
struct Parts {
  /// What a part's gradient may take, so that the passes after the first one find it in the second cache.
  static constexpr int64_t kBytes = 512 * 1024;

  Parts(const ops::ConvGeometry& whole, bool cut) : g(whole), rows(whole.rows()), step(rows) {
    int64_t unit = whole.out_h() * whole.out_w(), least = 2 * unit;
    if (ops::is_pointwise(whole)) {
      g.batch = g.in_h = 1, g.in_w = rows;
      unit = least = 160;  // of the weight gradient's tiles
    }
    // Masks are cut between bytes.
    if (!cut || unit * whole.out_c % 8 != 0) return;
    const int64_t most = std::max(least, kBytes / (whole.out_c * static_cast<int64_t>(sizeof(float))));
    const int64_t count = std::max<int64_t>(1, (rows + most / 2) / most);
    step = (rows + count * unit - 1) / (count * unit) * unit;
  }
  int64_t count() const { return step == 0 ? 0 : (rows + step - 1) / step; }
  int64_t rows_of(int64_t first) const { return std::min(step, rows - first); }
  ops::ConvGeometry geometry(int64_t first) const {
    ops::ConvGeometry part = g;
    if (ops::is_pointwise(g)) {
      part.in_w = rows_of(first);
    } else {
      part.batch = rows_of(first) / (g.out_h() * g.out_w());
    }
    return part;
  }
  /// Of the input, of output row `first`.
  int64_t input_row(int64_t first) const {
    return ops::is_pointwise(g) ? first : first / (g.out_h() * g.out_w()) * g.in_h * g.in_w;
  }

  ops::ConvGeometry g;
  int64_t rows, step;  // of the output
};

}  // namespace

void ConvBackward::add_convolution_gradients(const Tensor& grad, const MakeRows& make, const Tensor& kept_codes,
                                             const std::vector<bool>& needed, std::vector<Tensor>& result) const {
  const auto dims = static_cast<int64_t>(w_sizes.size());
  const int64_t channels = w_sizes[0];
  const bool own = has_own_gradients(dims, call);
  const ops::ConvGeometry g = own ? kernel_geometry(kept_x.sizes(), w_sizes, call) : ops::ConvGeometry{.groups = -1};
  // Grouped convolutions have no kernels of ours: LibTorch's takes the weight whatever is asked for.
  const Tensor codes = kept_codes.defined() || (own && ops::has_gradients(g)) ? kept_codes : weight_codes();
  if (own && ops::has_gradients(g)) {
    const Parts parts(g, static_cast<bool>(make));
    std::vector<float> factor(channels, x_scale);
    for (size_t c = 0; c < weight_factor.size(); ++c) factor[c] = static_cast<float>(x_scale * weight_factor[c]);
    Tensor w, dw, rows;
    ops::ScratchVector<uint8_t> unpacked;
    if (make) rows = at::empty({parts.step, channels}, at::kFloat);
    if (needed[0]) {
      result[0] = empty_kernel_layout(kept_x.sizes(), at::kFloat);
      if (ops::is_pointwise(g)) {
        const PassTimer timer("gradients of inputs");
        w = at::empty({channels, g.in_c}, at::kFloat);
        ops::dequantize_weights(codes.const_data_ptr<int8_t>(), channels, g.in_c, w_scale.const_data_ptr<float>(),
                                w.mutable_data_ptr<float>());
      }
    }
    if (needed[1]) {
      result[1] = empty_kernel_layout(w_sizes, at::kFloat);
      if (parts.count() > 1) dw = at::empty_like(result[1]);
    }
    for (int64_t i = 0; i < std::max<int64_t>(1, parts.count()); ++i) {
      const int64_t first = i * parts.step, in = parts.input_row(first) * g.in_c;
      const ops::ConvGeometry part = parts.geometry(first);
      const float* dy = grad.const_data_ptr<float>() + first * channels;
      if (make) {
        make(first, parts.rows_of(first), rows.mutable_data_ptr<float>());
        dy = rows.const_data_ptr<float>();
      }
      if (needed[1]) {
        const PassTimer timer("gradients of weights");
        Tensor& into = i == 0 ? result[1] : dw;
        const int64_t inputs = part.batch * part.in_h * part.in_w * part.in_c;
        const ops::StoredCodes stored = kept_x.stored();
        if (stored.packed) unpacked.resize(ops::unpacked_bytes(inputs));
        const uint8_t* x = ops::codes_in(stored, in, inputs, unpacked.data());
        ops::weight_gradient(part, x, x_range.zero_point, dy, factor.data(), into.mutable_data_ptr<float>());
        if (i > 0) result[1].add_(dw);
      }
      if (!needed[0]) continue;
      const PassTimer timer("gradients of inputs");
      float* dx = result[0].mutable_data_ptr<float>() + in;
      if (w.defined()) {
        Tensor product = at::from_blob(dx, {part.rows(), g.in_c});
        at::mm_out(product, at::from_blob(const_cast<float*>(dy), {part.rows(), channels}), w);
      } else {
        ops::input_gradient(part, dy, codes.const_data_ptr<int8_t>(), w_scale.const_data_ptr<float>(), dx);
      }
    }
    return;
  }
  Tensor dy = grad;
  if (make) {
    dy = empty_kernel_layout(grad.sizes(), at::kFloat);
    make(0, channels == 0 ? 0 : grad.numel() / channels, dy.mutable_data_ptr<float>());
  }
  const PassTimer timer("gradients of other convolutions");
  const Tensor x_codes = kept_x.codes();
  Tensor x = empty_kernel_layout(x_codes.sizes(), at::kFloat);  // only its sizes are read for the input's gradient
  if (needed[1]) {
    ops::dequantize(x_codes.const_data_ptr<uint8_t>(), x_codes.numel(), x_scale, x_range.zero_point,
                    x.mutable_data_ptr<float>());
  }
  Tensor w = codes.to(at::kFloat) * per_row(w_scale, dims);
  const ConvGeometry& geometry = call.geometry;
  if (geometry.transposed) w = output_first(w, geometry.groups);
  auto [dx, dw, db] = at::convolution_backward(dy, x, w, at::OptionalIntArrayRef(), geometry.stride, geometry.padding,
                                               geometry.dilation, geometry.transposed, output_padding_of(call),
                                               geometry.groups, {needed[0], needed[1], false});
  if (needed[0]) result[0] = kernel_layout(dx);
  if (!needed[1]) return;
  result[1] = kernel_layout(geometry.transposed ? output_first(dw, geometry.groups) : dw);
  if (!weight_factor.empty()) result[1].mul_(per_row(to_float_tensor(weight_factor), dims));
}

}  // namespace qat::autograd
