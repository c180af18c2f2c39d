#include <ATen/TensorOperators.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/autograd/functions.h"
#include "core/autograd/node.h"
#include "core/base/error.h"
#include "core/base/pass_timer.h"
#include "core/ops/convolve.h"
#include "core/ops/encode.h"
#include "core/ops/requantize.h"

namespace qat::autograd {
namespace {

using at::Tensor;

template <class T>
Tensor to_tensor(const std::vector<T>& values) {
  return at::from_blob(const_cast<T*>(values.data()), {static_cast<int64_t>(values.size())},
                       at::TensorOptions(c10::CppTypeToScalarType<T>::value))
      .clone();
}

Tensor to_float_tensor(const std::vector<double>& values) {
  return to_tensor(std::vector<float>(values.begin(), values.end()));
}

/// [C] -> [C, 1, 1, 1] or [C, 1], to scale a weight's rows.
Tensor per_row(const Tensor& v, int64_t dims) {
  std::vector<int64_t> sizes(dims, 1);
  sizes[0] = v.numel();
  return v.view(sizes);
}

void check_sizes(at::IntArrayRef x, at::IntArrayRef w, const ConvCall& call) {
  QAT_CHECK(x.size() == w.size() && x.size() >= 2 && x.size() <= 5,
            "{}: a weight of {} dimensions does not fit an input of {}", call.name, w.size(), x.size());
  const ConvGeometry& g = call.geometry;
  QAT_CHECK(g.groups > 0 && w[1] * g.groups == x[1] && w[0] % g.groups == 0,
            "{}: weight [{}, {}, ...] in {} groups does not fit {} input channels", call.name, w[0], w[1], g.groups,
            x[1]);
  const size_t spatial = x.size() - 2;
  QAT_CHECK(g.stride.size() == spatial && g.padding.size() == spatial && g.dilation.size() == spatial &&
                (g.output_padding.empty() || g.output_padding.size() == spatial),
            "{}: expected strides, paddings and dilations in {} dimensions", call.name, spatial);
}

/// Whether the integer kernels run it; a one-dimensional convolution is a two-dimensional one of height 1.
bool has_integer_kernel(size_t dims, const ConvCall& call) { return dims <= 4 && !call.geometry.transposed; }

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

std::vector<int64_t> output_padding_of(const ConvCall& call) {
  const ConvGeometry& g = call.geometry;
  return g.output_padding.empty() ? std::vector<int64_t>(g.stride.size(), 0) : g.output_padding;
}

/// What backward keeps, and the gradient rules of the whole block.
struct ConvBackward final : Backward {
  std::string layer;
  ConvCall call;  // without tensors, observers or output
  at::Tensor x_codes;
  float x_scale = 1;
  ops::CodeRange x_range;
  bool has_bias = false, has_norm = false;

  // The weight that ran: raw codes in the live phase, folded ones otherwise.
  at::Tensor w_codes, w_scale;
  std::vector<double> k;              // folded: the gain of batch norm
  std::vector<double> weight_factor;  // of the gradient at the weight's handle to that of the weight that ran; empty: 1

  at::Tensor inside;  // bit mask; undefined: everywhere
  at::Tensor kept;    // int16 (compact) or int32 accumulators; undefined: none, or recomputed
  bool recompute = false;
  at::Tensor middle, step;  // with int16

  // Live batch norm: xhat = p * acc + q.
  std::vector<double> p, q, gain;  // gain = gamma / sqrt(var + eps)
  LiveStatistics statistics = LiveStatistics::kBatch;

  // A learned output scale.
  bool learn = false;
  at::Tensor y_codes;
  std::vector<float> multiplier, offset;
  ops::CodeRange y_range;
  double gradient_scale = 1;

  std::string name() const override { return "qat::conv(" + layer + ")"; }

  Tensor accumulators() const;
  std::vector<Tensor> apply(const Tensor& grad, const std::vector<bool>& needed) override;
};

/// int32 [rows, C], and the sizes [N, C, spatial...] of the map that the rows are.
struct Accumulators {
  Tensor values;
  std::vector<int64_t> sizes;
};

Accumulators run_convolution(const ConvCall& call, const Tensor& x_codes, const ops::CodeRange& x_range,
                             const Tensor& w_codes) {
  const int32_t zero_point = x_range.zero_point;
  if (has_integer_kernel(x_codes.dim(), call)) {
    const ops::ConvGeometry g = kernel_geometry(x_codes.sizes(), w_codes.sizes(), call);
    Accumulators acc{at::empty({g.rows(), g.out_c}, at::kInt), {g.batch, g.out_c}};
    if (x_codes.dim() == 4) acc.sizes.push_back(g.out_h());
    if (x_codes.dim() >= 3) acc.sizes.push_back(g.out_w());
    const PassTimer timer("convolution");
    ops::PackedConvolution<uint8_t>(g, w_codes.const_data_ptr<int8_t>(), zero_point, x_range.hi)
        .accumulate(x_codes.const_data_ptr<uint8_t>(), g.batch, acc.values.mutable_data_ptr<int32_t>());
    return acc;
  }
  // float64 holds every sum of products of codes exactly.
  const ConvGeometry& g = call.geometry;
  const Tensor w = w_codes.to(at::kDouble);
  const Tensor y =
      at::convolution(x_codes.to(at::kDouble).sub_(zero_point), g.transposed ? output_first(w, g.groups) : w, Tensor(),
                      g.stride, g.padding, g.dilation, g.transposed, output_padding_of(call), g.groups);
  return {y.movedim(1, -1).reshape({-1, y.size(1)}).to(at::kInt), y.sizes().vec()};
}

Tensor ConvBackward::accumulators() const { return run_convolution(call, x_codes, x_range, w_codes).values; }

std::vector<Tensor> ConvBackward::apply(const Tensor& grad, const std::vector<bool>& needed) {
  const int64_t channels = w_codes.size(0);
  const int64_t rows = channels == 0 ? 0 : grad.numel() / channels;
  const float* g = grad.const_data_ptr<float>();
  const uint8_t* bits = inside.defined() ? inside.const_data_ptr<uint8_t>() : nullptr;

  ops::KeptAccumulators acc;
  if (recompute) kept = accumulators();
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
  if (learn && needed[next]) {
    const PassTimer timer("gradient of the output scale");
    const double ds = ops::scale_gradient(g, y_codes.const_data_ptr<uint8_t>(), bits, acc, multiplier.data(),
                                          offset.empty() ? nullptr : offset.data(), y_range, rows, channels);
    result[next] = to_tensor(std::vector<float>{static_cast<float>(ds * gradient_scale)});
  }

  const bool live = !p.empty();
  std::vector<double> s1(channels), s2(channels);
  {
    const PassTimer timer("sums of gradients");
    ops::reduce_gradient(g, bits, live ? acc : ops::KeptAccumulators{}, rows, channels, s1.data(),
                         live ? s2.data() : nullptr);
  }

  Tensor dy = empty_kernel_layout(grad.sizes(), at::kFloat);
  if (live) {
    std::vector<float> a(channels), b(channels), c(channels);
    std::vector<double> dgamma(channels);
    for (int64_t i = 0; i < channels; ++i) {
      dgamma[i] = p[i] * s2[i] + q[i] * s1[i];
      a[i] = static_cast<float>(gain[i]);
      if (statistics == LiveStatistics::kRunning) continue;  // constants
      const double per_row_of = 1.0 / static_cast<double>(rows);
      b[i] = static_cast<float>(-gain[i] * p[i] * dgamma[i] * per_row_of);
      c[i] = static_cast<float>(-gain[i] * (s1[i] + q[i] * dgamma[i]) * per_row_of);
    }
    const PassTimer timer("batch norm's gradient");
    ops::batch_norm_gradient(g, bits, acc, rows, channels, a.data(), b.data(), c.data(), dy.mutable_data_ptr<float>());
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
      const PassTimer timer("masked gradient");
      ops::mask_gradient(g, bits, grad.numel(), dy.mutable_data_ptr<float>());
    } else {
      dy = grad;
    }
    if (has_norm && needed[beta_at]) result[beta_at] = to_float_tensor(s1);
    if (has_bias && needed[bias_at]) {
      for (int64_t i = 0; i < channels; ++i) s1[i] *= k[i];
      result[bias_at] = to_float_tensor(s1);
    }
  }

  if (!needed[0] && !needed[1]) return result;
  const PassTimer timer("gradients of convolutions");
  const int64_t dims = w_codes.dim();
  Tensor x, w;
  if (needed[1]) {
    x = empty_kernel_layout(x_codes.sizes(), at::kFloat);
    ops::dequantize(x_codes.const_data_ptr<uint8_t>(), x_codes.numel(), x_scale, x_range.zero_point,
                    x.mutable_data_ptr<float>());
  } else {
    x = empty_kernel_layout(x_codes.sizes(), at::kFloat);  // only its sizes are read
  }
  w = w_codes.to(at::kFloat) * per_row(w_scale, dims);
  if (dims > 2) {
    const ConvGeometry& geometry = call.geometry;
    if (geometry.transposed) w = output_first(w, geometry.groups);
    auto [dx, dw, db] = at::convolution_backward(dy, x, w, at::OptionalIntArrayRef(), geometry.stride, geometry.padding,
                                                 geometry.dilation, geometry.transposed, output_padding_of(call),
                                                 geometry.groups, {needed[0], needed[1], false});
    if (needed[0]) result[0] = kernel_layout(dx);
    if (needed[1]) result[1] = kernel_layout(geometry.transposed ? output_first(dw, geometry.groups) : dw);
  } else {
    if (needed[0]) result[0] = at::mm(dy, w);
    if (needed[1]) result[1] = at::mm(dy.t(), x);
  }
  if (needed[1] && !weight_factor.empty()) result[1].mul_(per_row(to_float_tensor(weight_factor), dims));
  return result;
}

/// Keeps accumulators for backward as the memory mode says.
void keep(ConvBackward& saved, const Tensor& acc, const ops::ChannelStatistics& stats, Memory memory) {
  const int64_t rows = acc.size(0), channels = acc.size(1);
  if (memory == Memory::kRecompute) {
    saved.recompute = true;
  } else if (memory == Memory::kExact) {
    saved.kept = acc;
  } else {
    std::vector<int32_t> middle(channels);
    std::vector<float> gain(channels), step(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t width = static_cast<int64_t>(stats.max[c]) - stats.min[c];
      middle[c] = static_cast<int32_t>(stats.min[c] + width / 2);
      gain[c] = width == 0 ? 0.0f : static_cast<float>(65000.0 / static_cast<double>(width));
      step[c] = static_cast<float>(static_cast<double>(width) / 65000.0);
    }
    saved.kept = at::empty({rows, channels}, at::kShort);
    const PassTimer timer("accumulators kept");
    ops::compact(acc.const_data_ptr<int32_t>(), rows, channels, middle.data(), gain.data(),
                 saved.kept.mutable_data_ptr<int16_t>());
    saved.middle = to_tensor(middle);
    saved.step = to_tensor(step);
  }
}

/// Smallest and largest of scale[c] * acc + offset[c] over all channels, after the ReLU.
std::pair<double, double> real_range(const ops::ChannelStatistics& stats, const std::vector<double>& scale,
                                     const std::vector<double>& offset, bool relu) {
  double lo = std::numeric_limits<double>::infinity(), hi = -lo;
  for (size_t c = 0; c < scale.size(); ++c) {
    const double a = scale[c] * stats.min[c] + offset[c], b = scale[c] * stats.max[c] + offset[c];
    lo = std::min({lo, a, b});
    hi = std::max({hi, a, b});
  }
  if (relu) lo = std::max(lo, 0.0), hi = std::max(hi, 0.0);
  return {lo, hi};
}

const float* data_or_null(const Tensor& t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; }

void update_running_statistics(const BatchNorm& norm, const std::vector<double>& mean, const std::vector<double>& var,
                               int64_t rows) {
  float* running_mean = norm.running_mean.mutable_data_ptr<float>();
  float* running_var = norm.running_var.mutable_data_ptr<float>();
  const double unbiased = rows > 1 ? static_cast<double>(rows) / static_cast<double>(rows - 1) : 1.0;
  for (size_t c = 0; c < mean.size(); ++c) {
    running_mean[c] = static_cast<float>((1.0 - norm.momentum) * running_mean[c] + norm.momentum * mean[c]);
    running_var[c] = static_cast<float>((1.0 - norm.momentum) * running_var[c] + norm.momentum * var[c] * unbiased);
  }
}

}  // namespace

std::vector<double> BatchNorm::running_gain() const {
  const float *g = gamma.const_data_ptr<float>(), *var = running_var.const_data_ptr<float>();
  std::vector<double> k(static_cast<size_t>(gamma.numel()));
  for (size_t c = 0; c < k.size(); ++c) {
    k[c] = g[c] / std::sqrt(static_cast<double>(var[c]) + eps);
    k[c] += std::copysign(1e-30, k[c]);
  }
  return k;
}

Tensor output_first(const Tensor& weight, int64_t groups) {
  std::vector<int64_t> sizes{groups, weight.size(0) / groups, weight.size(1)};
  sizes.insert(sizes.end(), weight.sizes().begin() + 2, weight.sizes().end());
  return weight.reshape(sizes).transpose(1, 2).flatten(0, 1);
}

ops::Folded fold(const QuantizedWeight& w, const ConvCall& call, float input_scale) {
  ops::FoldInput in;
  in.channels = w.codes.size(0);
  in.depth = w.codes.numel() / std::max<int64_t>(in.channels, 1);
  in.codes = w.codes.const_data_ptr<int8_t>();
  in.weight_scale = w.scale.const_data_ptr<float>();
  in.conv_bias = data_or_null(call.bias);
  in.input_scale = input_scale;
  if (call.batch_norm) {
    in.gamma = data_or_null(call.batch_norm->gamma);
    in.beta = data_or_null(call.batch_norm->beta);
    in.running_mean = data_or_null(call.batch_norm->running_mean);
    in.running_var = data_or_null(call.batch_norm->running_var);
    in.eps = call.batch_norm->eps;
    in.gain_in_codes = !call.weight_gain.empty();
  }
  return ops::fold(in, call.name);
}

ConvResult conv(const QuantizedTensor& x, const QuantizedWeight& w, const ConvCall& call) {
  check_sizes(x.sizes(), w.codes.sizes(), call);
  const int64_t channels = w.codes.size(0);
  const bool live = call.live && call.batch_norm.has_value();

  std::vector<Tensor> inputs{x.handle(), w.handle};
  if (call.bias.defined()) inputs.push_back(call.bias);
  if (call.batch_norm) inputs.insert(inputs.end(), {call.batch_norm->gamma, call.batch_norm->beta});
  const bool learn = call.output && call.output->learns();
  if (learn) inputs.push_back(call.output->scale);
  const bool record = needs_gradient(inputs);

  auto saved = std::make_unique<ConvBackward>();
  saved->layer = call.name;
  saved->call.geometry = call.geometry, saved->call.name = call.name;
  saved->x_codes = x.codes(), saved->x_scale = x.scale(), saved->x_range = x.range();
  saved->has_bias = call.bias.defined(), saved->has_norm = call.batch_norm.has_value();

  const at::NoGradGuard no_grad;
  const float* w_scale = w.scale.const_data_ptr<float>();

  Accumulators made;
  std::vector<int32_t> bias;                                        // folded
  std::vector<double> real_scale(channels), real_offset(channels);  // real value = scale * acc + offset
  ops::ChannelStatistics stats;
  const bool observing = call.output && call.output->observe != nullptr;
  const bool keeping = record && (live || learn);

  if (live) {
    const BatchNorm& norm = *call.batch_norm;
    made = run_convolution(call, x.codes(), x.range(), w.codes);
    const int64_t rows = made.values.size(0);
    QAT_CHECK(rows > 1, "{}: batch norm needs more than one value per channel to train", call.name);
    {
      const PassTimer timer("statistics");
      stats = ops::channel_statistics(made.values.const_data_ptr<int32_t>(), rows, channels);
    }
    saved->w_codes = w.codes, saved->w_scale = w.scale;
    const float *gamma = norm.gamma.const_data_ptr<float>(), *beta = norm.beta.const_data_ptr<float>();
    const float *running_mean = norm.running_mean.const_data_ptr<float>(),
                *running_var = norm.running_var.const_data_ptr<float>();
    const float* conv_bias = data_or_null(call.bias);
    const bool running = call.statistics == LiveStatistics::kRunning;
    saved->statistics = call.statistics;
    std::vector<double> mean(channels), var(channels);
    if (!call.weight_gain.empty()) {
      saved->weight_factor.resize(channels);
      saved->w_scale = w.scale / to_float_tensor(call.weight_gain);  // of the weight that ran
    }
    saved->p.resize(channels), saved->q.resize(channels), saved->gain.resize(channels);
    for (int64_t c = 0; c < channels; ++c) {
      double s = static_cast<double>(x.scale()) * w_scale[c];
      if (!call.weight_gain.empty()) {
        s /= call.weight_gain[c];
        saved->weight_factor[c] = 1.0 / call.weight_gain[c];
      }
      const double mean_acc = stats.sum[c] / static_cast<double>(rows);
      const double var_acc = std::max(0.0, stats.sum_squares[c] / static_cast<double>(rows) - mean_acc * mean_acc);
      mean[c] = s * mean_acc + (conv_bias ? conv_bias[c] : 0.0f);
      var[c] = s * s * var_acc;
      const double inverse = 1.0 / std::sqrt((running ? running_var[c] : var[c]) + norm.eps);
      saved->p[c] = s * inverse;
      saved->q[c] = running ? ((conv_bias ? conv_bias[c] : 0.0f) - static_cast<double>(running_mean[c])) * inverse
                            : -saved->p[c] * mean_acc;
      saved->gain[c] = gamma[c] * inverse;
      real_scale[c] = gamma[c] * saved->p[c];
      real_offset[c] = gamma[c] * saved->q[c] + beta[c];
    }
    update_running_statistics(norm, mean, var, rows);
  } else {
    ops::Folded folded = fold(w, call, x.scale());
    saved->w_codes = empty_kernel_layout(w.codes.sizes(), at::kChar);
    std::copy(folded.codes.begin(), folded.codes.end(), saved->w_codes.mutable_data_ptr<int8_t>());
    saved->w_scale = to_tensor(folded.scale);
    saved->k = std::move(folded.k);
    if (call.batch_norm && call.weight_gain.empty()) saved->weight_factor = saved->k;
    bias = std::move(folded.bias);
    made = run_convolution(call, x.codes(), x.range(), saved->w_codes);
    for (int64_t c = 0; c < channels; ++c) {
      real_scale[c] = static_cast<double>(x.scale()) * folded.scale[c];
      real_offset[c] = real_scale[c] * bias[c];
    }
    if (observing || (keeping && call.memory == Memory::kCompact)) {
      stats = ops::channel_statistics(made.values.const_data_ptr<int32_t>(), made.values.size(0), channels);
    }
  }
  const auto& [acc, sizes] = made;
  const int64_t rows = acc.size(0);
  if (keeping) keep(*saved, acc, stats, call.memory);

  const float* folded_scale = saved->w_scale.const_data_ptr<float>();
  if (!call.output) {
    Tensor values = empty_kernel_layout(sizes, at::kFloat);
    std::vector<float> multiplier(channels);
    if (live) {
      const Tensor real = acc.to(at::kFloat).mul_(to_float_tensor(real_scale)).add_(to_float_tensor(real_offset));
      values.movedim(1, -1).copy_(real.view(values.movedim(1, -1).sizes()));
    } else {
      for (int64_t c = 0; c < channels; ++c) multiplier[c] = x.scale() * folded_scale[c];
      ops::dequantize_accumulators(acc.const_data_ptr<int32_t>(), rows, channels, bias.data(), multiplier.data(),
                                   values.mutable_data_ptr<float>());
    }
    at::AutoGradMode grad_mode(record);
    if (record) values = connect(values, inputs, std::move(saved));
    return {std::nullopt, values};
  }

  if (observing) {
    const auto [lo, hi] = real_range(stats, real_scale, real_offset, call.relu);
    call.output->observe(lo, hi);
  }
  const ops::CodeRange range = call.output->range();
  QAT_CHECK(!call.relu || range.lo == range.zero_point, "{}: a fused ReLU needs an output range that starts at zero",
            call.name);
  const float y_scale = call.output->scale_value();
  Tensor codes = empty_kernel_layout(sizes, at::kByte);
  if (record) saved->inside = mask_bits(codes.numel());
  uint8_t* inside = record ? saved->inside.mutable_data_ptr<uint8_t>() : nullptr;
  const int32_t* accumulators = acc.const_data_ptr<int32_t>();
  const PassTimer timer("requantization");
  std::vector<float> multiplier(channels), offset(channels);
  if (live) {
    for (int64_t c = 0; c < channels; ++c) {
      multiplier[c] = static_cast<float>(real_scale[c] / y_scale);
      offset[c] = static_cast<float>(real_offset[c] / y_scale);
    }
    ops::requantize_affine(accumulators, rows, channels, multiplier.data(), offset.data(), range,
                           codes.mutable_data_ptr<uint8_t>(), inside, call.relu);
  } else {
    multiplier = ops::multipliers(std::vector<float>(folded_scale, folded_scale + channels), x.scale(), y_scale);
    ops::requantize(accumulators, rows, channels, bias.data(), multiplier.data(), range,
                    codes.mutable_data_ptr<uint8_t>(), inside, call.relu);
    for (int64_t c = 0; c < channels; ++c) offset[c] = multiplier[c] * static_cast<float>(bias[c]);
  }
  if (record && learn) {
    saved->learn = true;
    saved->y_codes = codes, saved->y_range = range;
    saved->multiplier = multiplier, saved->offset = offset;
    saved->gradient_scale = call.output->gradient_scale_of(codes);
  }
  Tensor handle = make_handle(sizes);
  {
    at::AutoGradMode grad_mode(record);
    if (record) handle = connect(handle, inputs, std::move(saved));
  }
  return {QuantizedTensor(codes, y_scale, range, handle), {}};
}

}  // namespace qat::autograd
