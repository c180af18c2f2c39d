#include "core/ops/cuda/batch_norm.h"

#include <algorithm>
#include <functional>
#include <optional>

#include "core/base/error.h"
#include "tests/ops/cuda/layer.h"

namespace qat::ops::cuda {
namespace {

class CudaBatchNorm : public GpuTest {};

constexpr int64_t kChannels[] = {1, 3, 31, 32, 33, 64, 1000, 1024, 1025, 2100};
constexpr auto kNan = std::numeric_limits<float>::quiet_NaN();

/// The numbers of a live layer on the device.
struct DeviceLive {
  explicit DeviceLive(int64_t n, int64_t shift = 0)
      : p(n, shift),
        q(n, shift),
        gain(n, shift),
        weight_factor(n, shift),
        multiplier(n, shift),
        offset(n, shift),
        scale_ran(n, shift) {}
  LiveNumbers numbers() const {
    return {p.data(), q.data(), gain.data(), weight_factor.data(), multiplier.data(), offset.data(), scale_ran.data()};
  }
  Array<double> p, q, gain, weight_factor;
  Array<float> multiplier, offset, scale_ran;
};

LiveLayer live_layer_of(const DeviceLayer& d, int64_t channels, const LiveCase& k) {
  LiveLayer layer;
  layer.rows = Layer::kRows, layer.channels = channels, layer.sums = d.statistics.sums();
  layer.scale_x = d.scale_x.data(), layer.scale_w = d.scale_w.data();
  if (k.weight_gain) layer.weight_gain = d.weight_gain.data();
  if (k.bias) layer.bias = d.bias.data();
  layer.norm = d.norm, layer.running_statistics = k.running;
  return layer;
}

TEST_F(CudaBatchNorm, LiveLayers) {
  for (const int64_t channels : kChannels) {
    const Layer l(channels, channels);
    for (const LiveCase& k : live_cases()) {
      SCOPED_TRACE(fmt::format("{} channels, bias {}, weight gain {}, running {}, relu {}, scale {}", channels, k.bias,
                               k.weight_gain, k.running, k.relu, static_cast<int>(k.scale)));
      const int64_t shift = channels % 2;
      const DeviceLayer d(l, shift);
      const DeviceLive live(channels, shift);
      const DeviceCompact compact(channels, shift);
      const Array<int32_t> failed({0});
      const Quantizer gpu;
      live_layer(live_layer_of(d, channels, k), output_scale(k.scale, gpu, k.relu), live.numbers(),
                 k.compact ? compact.numbers() : CompactNumbers{}, failed.data(), nullptr);

      const LiveVectors cpu = live_reference(l, k);
      Quantizer quantizer;
      const float y_scale =
          followed(k.scale, quantizer, real_range(l.statistics, cpu.real_scale, cpu.real_offset), k.relu);
      std::vector<float> multiplier, offset;
      for (int64_t c = 0; c < channels; ++c) {
        multiplier.push_back(static_cast<float>(cpu.real_scale[c] / y_scale));
        offset.push_back(static_cast<float>(cpu.real_offset[c] / y_scale));
      }
      EXPECT_EQ(failed.host()[0], 0);
      gpu.expect(quantizer);
      expect_equal(live.p.host(), cpu.p);
      expect_equal(live.q.host(), cpu.q);
      expect_equal(live.gain.host(), cpu.gain);
      expect_equal(live.weight_factor.host(), cpu.weight_factor);
      expect_equal(live.scale_ran.host(), cpu.scale_ran);
      expect_equal(live.multiplier.host(), multiplier);
      expect_equal(live.offset.host(), offset);
      expect_equal(d.mean.host(), cpu.running_mean);
      expect_equal(d.var.host(), cpu.running_var);
      if (k.compact) compact.expect(keep(l.statistics));
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaBatchNorm, NormalizesAccumulators) {
  const int64_t channels = 40, rows = Layer::kRows;
  Layer l(channels, 3);
  l.eps = 0;
  const DeviceLayer d(l);
  const DeviceLive live(channels);
  const Array<int32_t> failed({0});
  live_layer(live_layer_of(d, channels, {.bias = true}), {}, live.numbers(), {}, failed.data(), nullptr);
  const std::vector<double> p = live.p.host(), q = live.q.host();
  const std::vector<float> mean = d.mean.host(), var = d.var.host();
  for (int64_t c = 9; c < channels; ++c) {
    double sum = 0, squares = 0, real = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t a = l.acc[r * channels + c];
      const double xhat = p[c] * a + q[c];
      sum += xhat, squares += xhat * xhat, real += static_cast<double>(l.scale_x) * l.scale_w[c] * a + l.bias[c];
    }
    EXPECT_NEAR(sum, 0.0, 1e-9);
    EXPECT_NEAR(squares / rows, 1.0, 1e-9);
    EXPECT_NEAR(mean[c], 0.9 * l.mean[c] + 0.1 * real / rows, 1e-5 * std::abs(real / rows) + 1e-6);
    const double deviation = 1.0 / (p[c] / (static_cast<double>(l.scale_x) * l.scale_w[c]));
    EXPECT_NEAR(var[c], 0.9 * l.var[c] + 0.1 * deviation * deviation * rows / (rows - 1), 1e-5 * var[c]);
  }
}

// Zeros of both signs are equal: the first channel's stays, as on the CPU.
TEST_F(CudaBatchNorm, TheFirstOfEqualEndsStays) {
  for (const int64_t channels : {2, 31, 33, 65, 1025, 2100}) {
    for (const int64_t other : {int64_t{0}, int64_t{1}, channels / 2, channels - 1}) {
      for (const float sign : {1.0f, -1.0f}) {
        Layer l(channels, 1);
        std::fill(l.scale_w.begin(), l.scale_w.end(), 0.0f);
        std::fill(l.gamma.begin(), l.gamma.end(), -0.0f);  // gamma * 0 + beta is a zero of beta's sign, or 0
        std::fill(l.mean.begin(), l.mean.end(), 1.0f);
        std::fill(l.beta.begin(), l.beta.end(), -0.0f);
        l.beta[other] = 0.0f;
        for (float& v : l.gamma) v *= sign;
        const LiveCase k{.running = true, .scale = Scale::kFollows};
        const DeviceLayer d(l);
        const DeviceLive live(channels);
        const Array<int32_t> failed({0});
        const Quantizer gpu(FollowedRange::Rule::kLast);
        live_layer(live_layer_of(d, channels, k), output_scale(k.scale, gpu, false), live.numbers(), {}, failed.data(),
                   nullptr);
        const LiveVectors cpu = live_reference(l, k);
        expect_equal(gpu.range.host(), real_range(l.statistics, cpu.real_scale, cpu.real_offset));
      }
    }
  }
}

TEST_F(CudaBatchNorm, LiveLayersThatDivergedFail) {
  const int64_t channels = 37;
  struct Broken {
    std::function<void(Layer&)> change;
    bool always;  // or only where a range follows
  };
  const Broken all[] = {
      {[](Layer& l) { l.scale_x = kNan; }, true},
      {[](Layer& l) { l.scale_w[20] = static_cast<float>(kInf); }, true},
      {[](Layer& l) { l.scale_w[20] = 1e38f, l.scale_x = 1e6f; }, true},  // variances beyond float
      {[](Layer& l) { l.bias[3] = kNan; }, true},
      {[](Layer& l) { l.mean[3] = kNan; }, true},
      {[](Layer& l) { l.var[36] = static_cast<float>(kInf); }, true},
      {[](Layer& l) { l.gamma[36] = kNan; }, false},
      {[](Layer& l) { l.beta[0] = kNan; }, false},
      {[](Layer& l) { l.beta[20] = static_cast<float>(kInf); }, false},
  };
  for (const Broken& broken : all) {
    SCOPED_TRACE(fmt::format("case {}", &broken - all));
    for (const bool follows : {false, true}) {
      Layer l(channels, 1);
      broken.change(l);
      const DeviceLayer d(l);
      const DeviceLive live(channels);
      const Array<int32_t> failed({0});
      const Quantizer gpu, before;
      const LiveCase k{.bias = true, .scale = follows ? Scale::kFollows : Scale::kStands};
      live_layer(live_layer_of(d, channels, k), output_scale(k.scale, gpu, false), live.numbers(), {}, failed.data(),
                 nullptr);
      EXPECT_EQ(failed.host()[0], broken.always || follows ? 1 : 0);
      if (!broken.always) gpu.expect(before);
    }
  }
  // Nobody takes a failure back.
  const Layer l(channels, 1);
  const DeviceLayer d(l);
  const DeviceLive live(channels);
  const Array<int32_t> failed({1});
  live_layer(live_layer_of(d, channels, {}), {}, live.numbers(), {}, failed.data(), nullptr);
  EXPECT_EQ(failed.host()[0], 1);
}

/// fold() on the device; whether it failed.
bool fold_on_device(const Layer& l, const std::vector<int8_t>& codes, const FoldCase& k, const DeviceFolded& folded) {
  const DeviceLayer d(l, k.shift);
  const Array<int8_t> raw(codes, k.shift);
  const Array<int32_t> failed({0});
  FoldedLayer layer;
  layer.channels = l.channels, layer.depth = k.depth, layer.codes = raw.data();
  layer.scale_x = d.scale_x.data(), layer.scale_w = d.scale_w.data();
  layer.gain_in_codes = k.gain_in_codes;
  if (k.bias) layer.bias = d.bias.data();
  if (k.norm) layer.norm = d.norm;
  fold(layer, folded.numbers(), failed.data(), nullptr);
  expect_equal(raw.host(), codes);
  return failed.host()[0] != 0;
}

std::vector<int8_t> weight_codes(int64_t n, uint64_t seed) {
  auto codes = drawn_codes<int8_t>(n, seed);
  for (int8_t& code : codes) code = std::max<int8_t>(code, -127);
  return codes;
}

TEST_F(CudaBatchNorm, Folds) {
  int64_t raised = 0;
  for (const int64_t channels : {1, 5, 33, 70}) {
    for (const int64_t depth : {0, 1, 15, 16, 27, 64, 257, 4096 + 48}) {
      for (int bits = 0; bits < 16; ++bits) {
        const FoldCase k{depth, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, bits / 8};
        SCOPED_TRACE(fmt::format("{} x {}, case {}", channels, depth, bits));
        const Layer l(channels, depth + bits);
        const std::vector<int8_t> codes = weight_codes(channels * depth, bits);
        const ops::Folded cpu = ops::fold(fold_input(l, codes, k), "test");
        raised += cpu.raised;
        const DeviceFolded gpu(channels, k);
        EXPECT_FALSE(fold_on_device(l, codes, k, gpu));
        expect_equal(gpu.codes.host(), cpu.codes);
        expect_equal(gpu.scale.host(), cpu.scale);
        expect_equal(gpu.bias.host(), cpu.bias);
        expect_equal(gpu.k.host(), cpu.k);
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_GT(raised, 100);
}

// Codes that a raised scale, d instead of n, leaves in the middle of two, or next to it.
TEST_F(CudaBatchNorm, FoldingRoundsAsTheCpu) {
  const FoldCase k{255, false, true, false};
  Layer l(20 * 20, 1);
  l.scale_x = 1;
  std::vector<int8_t> codes;
  for (int64_t c = 0; c < l.channels; ++c) {
    const int64_t d = 2 * (c / 20) + 2, n = c % 20 + 1;
    l.scale_w[c] = static_cast<float>(n), l.bias[c] = static_cast<float>(d) * 0x1p30f;
    for (int code = -127; code <= 127; ++code) codes.push_back(static_cast<int8_t>(code));
  }
  const ops::Folded cpu = ops::fold(fold_input(l, codes, k), "test");
  const DeviceFolded gpu(l.channels, k);
  EXPECT_FALSE(fold_on_device(l, codes, k, gpu));
  expect_equal(gpu.codes.host(), cpu.codes);
  expect_equal(gpu.bias.host(), cpu.bias);
}

// As far as fold.cpp throws, and no further.
TEST_F(CudaBatchNorm, FoldingFailsWhereTheCpuThrows) {
  using Change = std::function<void(Layer&, std::vector<int8_t>&, FoldCase&)>;
  const auto inf = static_cast<float>(kInf);
  std::vector<Change> changes;
  for (const float v : {kNan, inf, -inf, 0.0f, -1.0f, 1e-45f, 1e30f, 3e38f}) {
    changes.emplace_back([v](Layer& l, auto&, auto&) { l.scale_x = v; });
    changes.emplace_back([v](Layer& l, auto&, auto&) { l.scale_w[9] = v; });
    changes.emplace_back([v](Layer& l, auto&, FoldCase& k) { l.scale_w[9] = v, k.norm = false; });
    changes.emplace_back([v](Layer& l, auto&, auto&) { l.bias[4] = v; });
    changes.emplace_back([v](Layer& l, auto&, FoldCase& k) { l.bias[4] = v, k.norm = false; });
    changes.emplace_back([v](Layer& l, auto&, FoldCase& k) { l.bias[4] = v, k.bias = false; });
    changes.emplace_back([v](Layer& l, auto&, auto&) { l.gamma[4] = v; });
    changes.emplace_back([v](Layer& l, auto&, auto&) { l.beta[9] = v; });
    changes.emplace_back([v](Layer& l, auto&, auto&) { l.mean[0] = v; });
    changes.emplace_back([v](Layer& l, auto&, auto&) { l.var[9] = v; });
    changes.emplace_back([v](Layer& l, auto&, FoldCase& k) { l.var[9] = v, k.norm = false; });
  }
  for (const float v : {0.0f, -1.0f}) {
    for (const bool gain_in_codes : {false, true}) {
      changes.emplace_back([=](Layer& l, auto&, FoldCase& k) {
        l.var[2] = v, l.var[6] = 1.0f, l.eps = 0.0, k.gain_in_codes = gain_in_codes;
      });
    }
  }
  changes.emplace_back([](Layer& l, auto&, auto&) { l.scale_x = 1e38f, l.scale_w[3] = 1e10f, l.gamma[3] = 100.0f; });
  for (const float gamma : {-1.0f, 1.0f, -1e-37f, 1e-37f, -0.0f}) {  // the tiny ones raise the scale
    for (const bool gain_in_codes : {false, true}) {
      changes.emplace_back([=](Layer& l, std::vector<int8_t>& codes, FoldCase& k) {
        l.gamma[9] = gamma, codes.back() = -128, k.gain_in_codes = gain_in_codes;
      });
    }
  }
  int thrown = 0;
  for (size_t i = 0; i < changes.size(); ++i) {
    for (const int64_t depth : {16, 27}) {
      SCOPED_TRACE(fmt::format("change {}, depth {}", i, depth));
      FoldCase k{depth, true, true, false};
      Layer l(10, 4);
      std::vector<int8_t> codes = weight_codes(l.channels * depth, 2);
      changes[i](l, codes, k);
      std::optional<ops::Folded> cpu;
      try {
        cpu = ops::fold(fold_input(l, codes, k), "test");
      } catch (const Error&) {
        ++thrown;
      }
      const DeviceFolded gpu(l.channels, k);
      EXPECT_EQ(fold_on_device(l, codes, k, gpu), !cpu.has_value());
      if (!cpu) continue;
      expect_equal(gpu.codes.host(), cpu->codes);
      expect_equal(gpu.scale.host(), cpu->scale);
      expect_equal(gpu.bias.host(), cpu->bias);
      expect_equal(gpu.k.host(), cpu->k);
    }
  }
  EXPECT_GT(thrown, 60);
}

TEST_F(CudaBatchNorm, FoldedMultipliers) {
  for (const int64_t channels : kChannels) {
    const Layer l(channels, channels + 9);
    const FoldCase k{3, true, true, false};
    const ops::Folded folded = ops::fold(fold_input(l, weight_codes(channels * 3, 1), k), "test");
    const DeviceLayer d(l);
    const DeviceFolded on_device(folded);
    std::vector<double> real_scale, real_offset;
    for (int64_t c = 0; c < channels; ++c) {
      real_scale.push_back(static_cast<double>(l.scale_x) * folded.scale[c]);
      real_offset.push_back(real_scale[c] * folded.bias[c]);
    }
    for (int bits = 0; bits < 8; ++bits) {
      for (const Scale scale : {Scale::kNone, Scale::kStands, Scale::kFollows}) {
        SCOPED_TRACE(fmt::format("{} channels, case {}, scale {}", channels, bits, static_cast<int>(scale)));
        const bool relu = (bits & 1) != 0, compacts = (bits & 2) != 0, offsets = (bits & 4) != 0;
        const Quantizer gpu;
        const Array<float> multiplier(channels), offset(channels);
        const Array<int32_t> failed({0});
        const DeviceCompact compact(channels, 0);
        const bool needs = scale == Scale::kFollows || compacts;
        folded_multipliers(channels, needs ? d.statistics.sums() : ChannelSums{}, d.scale_x.data(), on_device.numbers(),
                           output_scale(scale, gpu, relu), multiplier.data(), offsets ? offset.data() : nullptr,
                           compacts ? compact.numbers() : CompactNumbers{}, failed.data(), nullptr);
        Quantizer quantizer;
        const float y_scale = followed(scale, quantizer, real_range(l.statistics, real_scale, real_offset), relu);
        std::vector<float> expected, expected_offset;
        if (scale == Scale::kNone) {
          for (const float s : folded.scale) expected.push_back(l.scale_x * s);
        } else {
          expected = ops::multipliers(folded.scale, l.scale_x, y_scale);
        }
        for (int64_t c = 0; c < channels; ++c) {
          expected_offset.push_back(expected[c] * static_cast<float>(folded.bias[c]));
        }
        EXPECT_EQ(failed.host()[0], 0);
        gpu.expect(quantizer);
        expect_equal(multiplier.host(), expected);
        if (offsets) expect_equal(offset.host(), expected_offset);
        if (compacts) compact.expect(keep(l.statistics));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(CudaBatchNorm, OtherNumbersOfChannels) {
  for (const int64_t channels : {1, 255, 256, 257, 1000}) {
    const auto s1 = drawn<double>(channels, 1, std::normal_distribution<double>());
    Layer l(channels, 3);
    std::vector<float> dscale;
    std::vector<double> gain;
    for (int64_t c = 0; c < channels; ++c) {
      dscale.push_back(static_cast<float>(s1[c] * 0.037));
      gain.push_back(l.gamma[c] / std::sqrt(static_cast<double>(l.var[c]) + l.eps));
      gain[c] += std::copysign(1e-30, gain[c]);
    }
    const DeviceLayer d(l, 1);
    const Array<double> sums(s1, 1), gains(channels, 1);
    const Array<float> out(channels, 1);
    scale_gradient(sums.data(), 0.037, out.data(), channels, nullptr);
    expect_equal(out.host(), dscale);
    running_gain(d.norm, channels, gains.data(), nullptr);
    expect_equal(gains.host(), gain);
    if (channels > 8) {
      EXPECT_EQ(gains.host()[2], -1e-30) << "gamma is -0";
    }
  }
}

TEST_F(CudaBatchNorm, NoChannels) {
  float value = 0;
  const BatchNorm norm{&value, &value, &value, &value};
  const Array<int32_t> failed({0});
  live_layer({.rows = 2, .norm = norm}, {}, {}, {}, failed.data(), nullptr);
  fold({.depth = 5, .norm = norm}, {}, failed.data(), nullptr);
  folded_multipliers(0, {}, nullptr, {}, {}, nullptr, nullptr, {}, failed.data(), nullptr);
  scale_gradient(nullptr, 1.0, nullptr, 0, nullptr);
  running_gain({}, 0, nullptr, nullptr);
  EXPECT_EQ(failed.host()[0], 0);
}

TEST(CudaBatchNormArguments, RefusesContradictions) {
  float value = 0, other = 0;
  double range[2] = {};
  int64_t batches = 0;
  int32_t number = 0;
  int8_t code = 0;
  const BatchNorm norm{&value, &value, &value, &value};
  const FollowedRange follow{.range = range, .batches = &batches, .scale = &value, .zero_point = &number};
  unsigned long long words[ChannelSums::kWords] = {};
  const auto live = [&](const LiveLayer& layer, const OutputScale& output, const CompactNumbers& compact) {
    EXPECT_THROW(live_layer(layer, output, {}, compact, &number, nullptr), Error);
  };
  const LiveLayer good{.rows = 2, .channels = 1, .sums = {words, 1}, .norm = norm};
  LiveLayer bad = good;
  bad.rows = 1;
  live(bad, {}, {});
  bad = good, bad.norm.running_var = nullptr;
  live(bad, {}, {});
  bad = good, bad.channels = -1;
  live(bad, {}, {});
  bad = good, bad.sums = {};
  live(bad, {}, {});
  bad = good, bad.sums.channels = 2;
  live(bad, {}, {});
  live(good, {nullptr, &follow}, {});  // a range that follows for float values
  live(good, {&other, &follow}, {});   // or for another scale
  live(good, {}, {&number, nullptr, &value});
  live(good, {}, {&number, &value, nullptr});
  live(good, {}, {nullptr, &value, &value});
  FollowedRange empty = follow;
  empty.hi = 0;
  live(good, {&value, &empty}, {});
  const auto folded = [&](const ChannelSums& sums, const OutputScale& output, const CompactNumbers& compact) {
    EXPECT_THROW(folded_multipliers(1, sums, &value, {}, output, &value, nullptr, compact, &number, nullptr), Error);
  };
  folded({}, {&value, &follow}, {});
  folded({}, {}, {&number, &value, &value});
  folded({words, 2}, {}, {});
  FoldedLayer layer{.channels = 1, .depth = 1, .codes = &code, .norm = norm};
  EXPECT_THROW(fold(layer, {.codes = &code}, &number, nullptr), Error);
  layer.norm.eps = kInf;
  EXPECT_THROW(fold(layer, {}, &number, nullptr), Error);
  layer.norm = norm, layer.norm.beta = nullptr;
  EXPECT_THROW(fold(layer, {}, &number, nullptr), Error);
  layer.norm = norm, layer.depth = -1;
  EXPECT_THROW(fold(layer, {}, &number, nullptr), Error);
  EXPECT_THROW(running_gain(norm, -1, range, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
