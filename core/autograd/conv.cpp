#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/autograd/conv_backward.h"
#include "core/base/error.h"
#include "core/base/pass_timer.h"
#include "core/ops/convolve.h"
#include "core/ops/requantize.h"

namespace qat::autograd {
namespace {

using at::Tensor;

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

/// What fold() reads, without history.
void keep_for_fold(const ConvCall& call, ConvCall& kept) {
  kept.weight_gain = call.weight_gain;
  if (call.bias.defined()) kept.bias = call.bias.detach();
  kept.batch_norm = call.batch_norm;
  if (!kept.batch_norm) return;
  for (Tensor* t : {&kept.batch_norm->gamma, &kept.batch_norm->beta, &kept.batch_norm->running_mean,
                    &kept.batch_norm->running_var}) {
    *t = t->detach();
  }
}

/// The accumulators' way to int16; without tensor where they are kept otherwise, or not.
struct Compacting {
  std::vector<int32_t> middle;
  std::vector<float> gain;
  ops::Compaction compaction() const { return {middle.data(), gain.data(), kept.mutable_data_ptr<int16_t>()}; }
  Tensor kept;
};

/// Keeps accumulators for backward as the memory mode says; int16 is left to be written.
Compacting keep(ConvBackward& saved, const Tensor& acc, const ops::ChannelStatistics& stats, Memory memory) {
  Compacting result;
  const int64_t rows = acc.size(0), channels = acc.size(1);
  const bool narrow = acc.scalar_type() == at::kShort;
  if (narrow) {
    saved.middle = to_tensor(std::vector<int32_t>(channels, 0));
    saved.step = to_tensor(std::vector<float>(channels, 1.0f));
  }
  if (memory == Memory::kRecompute) {
    saved.recompute = true;
    saved.narrow = narrow;
  } else if (memory == Memory::kExact || narrow) {
    saved.kept = acc;
  } else {
    result.middle.resize(channels), result.gain.resize(channels);
    std::vector<float> step(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const ops::CompactNumbers numbers = ops::compact_numbers(stats.min[c], stats.max[c]);
      result.middle[c] = numbers.middle, result.gain[c] = numbers.gain, step[c] = numbers.step;
    }
    saved.kept = result.kept = at::empty({rows, channels}, at::kShort);
    saved.middle = to_tensor(result.middle);
    saved.step = to_tensor(step);
  }
  return result;
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
  saved->call.saturates = call.saturates;
  if (record) saved->kept_x = x.kept();
  saved->x_scale = x.scale(), saved->x_range = x.range();
  saved->has_bias = call.bias.defined(), saved->has_norm = call.batch_norm.has_value();
  saved->w_sizes = w.codes.sizes().vec();
  const bool remade = dynamic_cast<RemakesCodes*>(backward_of(w.handle)) != nullptr;
  if (remade) saved->weight = w.handle, saved->raw_scale = w.scale;

  const at::NoGradGuard no_grad;
  const float* w_scale = w.scale.const_data_ptr<float>();

  // What stays float is a logit or two: not worth another path.
  const bool narrow = call.output.has_value();
  Accumulators made;
  std::vector<int32_t> bias;                                        // folded
  std::vector<double> real_scale(channels), real_offset(channels);  // real value = scale * acc + offset
  ops::ChannelStatistics stats;
  const bool observing = call.output && call.output->observe != nullptr;
  const bool keeping = record && (live || learn);

  if (live) {
    const BatchNorm& norm = *call.batch_norm;
    made = run_convolution(call, x.codes(), x.range(), w.codes, narrow);
    const int64_t rows = made.values.size(0);
    QAT_CHECK(rows > 1, "{}: batch norm needs more than one value per channel to train", call.name);
    if (made.statistics) {
      stats = std::move(*made.statistics);
    } else {
      const PassTimer timer("statistics");
      stats = ops::channel_statistics(made.values.const_data_ptr<int32_t>(), rows, channels);
    }
    if (!remade) saved->w_codes = w.codes;
    saved->w_scale = w.scale;
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
    const Tensor w_codes = empty_kernel_layout(w.codes.sizes(), at::kChar);
    std::copy(folded.codes.begin(), folded.codes.end(), w_codes.mutable_data_ptr<int8_t>());
    if (!remade) saved->w_codes = w_codes;
    if (remade) keep_for_fold(call, saved->call);
    saved->w_scale = to_tensor(folded.scale);
    saved->k = std::move(folded.k);
    if (call.batch_norm && call.weight_gain.empty()) saved->weight_factor = saved->k;
    bias = std::move(folded.bias);
    made = run_convolution(call, x.codes(), x.range(), w_codes, narrow);
    for (int64_t c = 0; c < channels; ++c) {
      real_scale[c] = static_cast<double>(x.scale()) * folded.scale[c];
      real_offset[c] = real_scale[c] * bias[c];
    }
    if (made.statistics) {
      stats = std::move(*made.statistics);
    } else if (observing || (keeping && call.memory == Memory::kCompact)) {
      stats = ops::channel_statistics(made.values.const_data_ptr<int32_t>(), made.values.size(0), channels);
    }
  }
  const Tensor& acc = made.values;
  const std::vector<int64_t>& sizes = made.sizes;
  const int64_t rows = acc.size(0);
  Compacting compacting;
  if (keeping) compacting = keep(*saved, acc, stats, call.memory);
  if (compacting.kept.defined() && !(live && call.output)) {
    const PassTimer timer("accumulators kept");
    ops::compact(acc.const_data_ptr<int32_t>(), rows, channels, compacting.middle.data(), compacting.gain.data(),
                 compacting.kept.mutable_data_ptr<int16_t>());
  }

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
  const auto with_accumulators = [&](const auto& run) {
    return acc.scalar_type() == at::kShort ? run(acc.const_data_ptr<int16_t>()) : run(acc.const_data_ptr<int32_t>());
  };
  const PassTimer timer("requantization");
  std::vector<float> multiplier(channels), offset(channels);
  if (live) {
    for (int64_t c = 0; c < channels; ++c) {
      multiplier[c] = static_cast<float>(real_scale[c] / y_scale);
      offset[c] = static_cast<float>(real_offset[c] / y_scale);
    }
    const ops::Compaction compaction = compacting.kept.defined() ? compacting.compaction() : ops::Compaction{};
    with_accumulators([&](const auto* accumulators) {
      ops::requantize_affine(accumulators, rows, channels, multiplier.data(), offset.data(), range,
                             codes.mutable_data_ptr<uint8_t>(), inside, call.relu, &compaction);
    });
  } else {
    multiplier = ops::multipliers(std::vector<float>(folded_scale, folded_scale + channels), x.scale(), y_scale);
    with_accumulators([&](const auto* accumulators) {
      ops::requantize(accumulators, rows, channels, bias.data(), multiplier.data(), range,
                      codes.mutable_data_ptr<uint8_t>(), inside, call.relu);
    });
    for (int64_t c = 0; c < channels; ++c) offset[c] = multiplier[c] * static_cast<float>(bias[c]);
  }
  KeptCodes kept_y;
  if (record && learn) {
    saved->learn = true;
    saved->kept_y = kept_y = KeptCodes(codes, range), saved->y_range = range;
    saved->multiplier = multiplier, saved->offset = offset;
    saved->gradient_scale = call.output->gradient_scale_of(codes);
  }
  Tensor handle = make_handle(sizes);
  {
    at::AutoGradMode grad_mode(record);
    if (record) handle = connect(handle, inputs, std::move(saved));
  }
  return {QuantizedTensor(codes, y_scale, range, handle, kept_y), {}};
}

}  // namespace qat::autograd
