// A layer with batch norm, here and on the device, and the loops over channels of core/autograd/conv.cpp once more:
// that library needs LibTorch.
#pragma once

#include <algorithm>

#include "core/ops/convolve.h"
#include "core/ops/cuda/batch_norm.h"
#include "core/ops/fold.h"
#include "core/ops/requantize.h"
#include "tests/ops/cuda/gpu.h"
#include "tests/ops/cuda/sums.h"

namespace qat::ops::cuda {

constexpr double kInf = std::numeric_limits<double>::infinity();

using Normal = std::normal_distribution<float>;
using Uniform = std::uniform_real_distribution<float>;

/// What a layer of `channels` output channels holds, and statistics of its accumulators, with all that is extreme in
/// some of the channels.
struct Layer {
  Layer(int64_t channels_, uint64_t seed) : channels(channels_) {
    scale_x = 0.017f;
    scale_w = drawn<float>(channels, seed + 1, Uniform(1e-4f, 0.02f));
    bias = drawn<float>(channels, seed + 2, Normal());
    gamma = drawn<float>(channels, seed + 3, Normal());
    beta = drawn<float>(channels, seed + 4, Normal(0.5f, 2.0f));
    mean = drawn<float>(channels, seed + 5, Normal());
    var = drawn<float>(channels, seed + 6, Uniform(0.01f, 3.0f));
    weight_gain = drawn<double>(channels, seed + 7, std::normal_distribution<double>());
    const std::vector<int32_t> middle =
        drawn<int32_t>(channels, seed + 8, std::uniform_int_distribution<int32_t>(-90000, 90000));
    acc = drawn<int32_t>(kRows * channels, seed + 9, std::uniform_int_distribution<int32_t>(-30000, 30000));
    for (int64_t i = 0; i < kRows * channels; ++i) acc[i] += middle[i % channels];
    const auto fill = [&](int64_t c, const auto& value) {
      for (int64_t r = 0; r < kRows; ++r) acc[r * channels + c] = value(r);
    };
    if (channels > 8) {
      gamma[1] = 0.0f, gamma[2] = -0.0f, gamma[3] = 1e-38f, beta[4] = 3e6f, scale_w[5] = 1e-30f;
      var[6] = 0.0f, gamma[7] = -2.0f, mean[7] = 1e5f;
      fill(2, [](int64_t) { return 0; });
      fill(8, [](int64_t) { return -517983382; });  // rounding leaves their squares less than the mean's
      fill(0, [](int64_t r) { return r % 2 == 0 ? INT32_MIN : INT32_MAX; });
      fill(6, [](int64_t r) { return r == 0 ? 3 : 2; });
      if (channels > 40) std::swap(beta[4], beta[channels - 1]);
    }
    statistics = ops::channel_statistics(acc.data(), kRows, channels);
  }

  static constexpr int64_t kRows = 37;
  int64_t channels;
  float scale_x;
  std::vector<float> scale_w, bias, gamma, beta, mean, var;
  std::vector<double> weight_gain;
  std::vector<int32_t> acc;
  ops::ChannelStatistics statistics;
  double eps = 1e-5, momentum = 0.1;
};

struct DeviceLayer {
  explicit DeviceLayer(const Layer& l, int64_t shift = 0)
      : scale_x({l.scale_x}),
        scale_w(l.scale_w, shift),
        bias(l.bias, shift),
        gamma(l.gamma, shift),
        beta(l.beta, shift),
        mean(l.mean, shift),
        var(l.var, shift),
        weight_gain(l.weight_gain, shift),
        statistics(l.channels, shift),
        norm{gamma.data(), beta.data(), mean.data(), var.data(), l.eps, l.momentum} {
    const Array<int32_t> acc(l.acc);
    channel_statistics(acc.data(), Layer::kRows, statistics.sums(), nullptr);
    EXPECT_EQ(statistics.difference(l.statistics), "");
  }
  Array<float> scale_x, scale_w, bias, gamma, beta, mean, var;
  Array<double> weight_gain;
  DeviceSums statistics;
  BatchNorm norm;
};

/// A quantizer of outputs.
struct Quantizer {
  explicit Quantizer(FollowedRange::Rule rule = FollowedRange::Rule::kMovingAverage) {
    follow.rule = rule, follow.is_signed = follow.affine = true, follow.symmetric_zero_point = 128;
    follow.range = range.data(), follow.batches = batches.data();
    follow.scale = scale.data(), follow.zero_point = zero_point.data();
  }
  void expect(const Quantizer& other) const {
    expect_equal(range.host(), other.range.host());
    expect_equal(batches.host(), other.batches.host());
    expect_equal(scale.host(), other.scale.host());
    expect_equal(zero_point.host(), other.zero_point.host());
  }
  Array<double> range{-1.0, 2.0};
  Array<int64_t> batches{5};
  Array<float> scale{0.31f};
  Array<int32_t> zero_point{100};
  FollowedRange follow;
};

struct CompactVectors {
  std::vector<int32_t> middle;
  std::vector<float> gain, step;
};

/// conv.cpp's keep().
inline CompactVectors keep(const ops::ChannelStatistics& stats) {
  CompactVectors kept;
  for (size_t c = 0; c < stats.min.size(); ++c) {
    const ops::CompactNumbers numbers = ops::compact_numbers(stats.min[c], stats.max[c]);
    kept.middle.push_back(numbers.middle), kept.gain.push_back(numbers.gain), kept.step.push_back(numbers.step);
  }
  return kept;
}

/// conv.cpp's real_range(), before the ReLU.
inline std::vector<double> real_range(const ops::ChannelStatistics& stats, const std::vector<double>& scale,
                                      const std::vector<double>& offset) {
  double lo = kInf, hi = -lo;
  for (size_t c = 0; c < scale.size(); ++c) {
    const double a = scale[c] * stats.min[c] + offset[c], b = scale[c] * stats.max[c] + offset[c];
    lo = std::min({lo, a, b});
    hi = std::max({hi, a, b});
  }
  return {lo, hi};
}

/// How an output is quantized in a case: not, with a scale that stands, or one that follows.
enum class Scale { kNone, kStands, kFollows };

struct DeviceCompact {
  DeviceCompact(int64_t channels, int64_t shift)
      : middle(channels, shift), gain(channels, shift), step(channels, shift) {}
  CompactNumbers numbers() const { return {middle.data(), gain.data(), step.data()}; }
  void expect(const CompactVectors& cpu) const {
    expect_equal(middle.host(), cpu.middle);
    expect_equal(gain.host(), cpu.gain);
    expect_equal(step.host(), cpu.step);
  }
  Array<int32_t> middle;
  Array<float> gain, step;
};

inline OutputScale output_scale(Scale scale, const Quantizer& quantizer, bool relu) {
  OutputScale output;
  if (scale != Scale::kNone) output.scale = quantizer.scale.data();
  if (scale == Scale::kFollows) output.follow = &quantizer.follow;
  output.relu = relu;
  return output;
}

/// The scale that the CPU's forward would have: of a quantizer that follows these ends (follow_test.cpp has the rules).
inline float followed(Scale scale, Quantizer& quantizer, const std::vector<double>& ends, bool relu) {
  if (scale == Scale::kNone) return 1.0f;
  if (scale == Scale::kFollows) {
    const Array<double> on_device(ends);
    const Array<int32_t> failed({0});
    follow_range(on_device.data(), relu, quantizer.follow, failed.data(), nullptr);
    EXPECT_EQ(failed.host()[0], 0);
  }
  return quantizer.scale.host()[0];
}

struct LiveCase {
  bool bias, weight_gain, running, relu, compact;
  Scale scale;
};

inline std::vector<LiveCase> live_cases() {
  std::vector<LiveCase> cases;
  for (int bits = 0; bits < 8; ++bits) {
    for (const Scale scale : {Scale::kNone, Scale::kStands, Scale::kFollows}) {
      cases.push_back({(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, bits % 3 == 0, bits % 2 == 0, scale});
    }
  }
  return cases;
}

struct LiveVectors {
  std::vector<double> p, q, gain, weight_factor, real_scale, real_offset;
  std::vector<float> scale_ran, running_mean, running_var;
};

/// conv()'s live branch, and update_running_statistics().
inline LiveVectors live_reference(const Layer& l, const LiveCase& k) {
  LiveVectors out;
  const int64_t rows = Layer::kRows;
  const double unbiased = rows > 1 ? static_cast<double>(rows) / static_cast<double>(rows - 1) : 1.0;
  for (int64_t c = 0; c < l.channels; ++c) {
    double s = static_cast<double>(l.scale_x) * l.scale_w[c];
    if (k.weight_gain) s /= l.weight_gain[c];
    out.weight_factor.push_back(k.weight_gain ? 1.0 / l.weight_gain[c] : 1.0);
    out.scale_ran.push_back(k.weight_gain ? l.scale_w[c] / static_cast<float>(l.weight_gain[c]) : l.scale_w[c]);
    const double mean_acc = l.statistics.sum[c] / static_cast<double>(rows);
    const double var_acc = std::max(0.0, l.statistics.sum_squares[c] / static_cast<double>(rows) - mean_acc * mean_acc);
    const double mean = s * mean_acc + (k.bias ? l.bias[c] : 0.0f);
    const double var = s * s * var_acc;
    const double inverse = 1.0 / std::sqrt((k.running ? l.var[c] : var) + l.eps);
    const double p = s * inverse;
    const double q =
        k.running ? ((k.bias ? l.bias[c] : 0.0f) - static_cast<double>(l.mean[c])) * inverse : -p * mean_acc;
    out.p.push_back(p), out.q.push_back(q);
    out.gain.push_back(l.gamma[c] * inverse);
    out.real_scale.push_back(l.gamma[c] * p);
    out.real_offset.push_back(l.gamma[c] * q + l.beta[c]);
    out.running_mean.push_back(static_cast<float>((1.0 - l.momentum) * l.mean[c] + l.momentum * mean));
    out.running_var.push_back(static_cast<float>((1.0 - l.momentum) * l.var[c] + l.momentum * var * unbiased));
  }
  return out;
}

/// Codes and options of a layer to fold.
struct FoldCase {
  int64_t depth;
  bool norm, bias, gain_in_codes;
  int64_t shift = 0;
};

inline ops::FoldInput fold_input(const Layer& l, const std::vector<int8_t>& codes, const FoldCase& k) {
  ops::FoldInput in;
  in.channels = l.channels, in.depth = k.depth, in.codes = codes.data();
  in.weight_scale = l.scale_w.data();
  if (k.bias) in.conv_bias = l.bias.data();
  in.input_scale = l.scale_x;
  if (!k.norm) return in;
  in.gamma = l.gamma.data(), in.beta = l.beta.data();
  in.running_mean = l.mean.data(), in.running_var = l.var.data();
  in.eps = l.eps, in.gain_in_codes = k.gain_in_codes;
  return in;
}

struct DeviceFolded {
  DeviceFolded(int64_t channels, const FoldCase& k)
      : codes(channels * k.depth, k.shift), scale(channels, k.shift), bias(channels, k.shift), k(channels, k.shift) {}
  explicit DeviceFolded(const ops::Folded& f) : codes(f.codes), scale(f.scale), bias(f.bias), k(f.k) {}
  FoldedNumbers numbers() const { return {codes.data(), scale.data(), bias.data(), k.data()}; }
  Array<int8_t> codes;
  Array<float> scale;
  Array<int32_t> bias;
  Array<double> k;
};

}  // namespace qat::ops::cuda
