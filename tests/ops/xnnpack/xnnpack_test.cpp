// Convolutions and linear layers against XNNPACK, which LiteRT runs: no code differs.
#include <gtest/gtest.h>
#include <xnnpack.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/ops/convolve.h"
#include "core/ops/spread.h"

namespace qat::ops {
namespace {

/// XNNPACK may read a little beyond its input.
constexpr size_t kBeyond = 64;

/// A layer with everything that its output codes depend on. Weights: int8 with a scale a channel for int8 codes, uint8
/// with one scale and a zero point for uint8 codes.
template <class Code>
struct Layer {
  ConvGeometry g;
  std::vector<Code> x, weight;  // NHWC; [co][kh][kw][ci / groups]
  std::vector<float> weight_scale;
  std::vector<int32_t> bias;
  int32_t x_zero = 0, weight_zero = 0;
  float x_scale = 1, y_scale = 1;
  CodeRange y;

  /// -> PackedConvolution's.
  std::vector<int16_t> centred() const {
    std::vector<int16_t> codes;
    for (const Code code : weight) codes.push_back(static_cast<int16_t>(code - weight_zero));
    return codes;
  }
  std::vector<float> multiplier() const {
    std::vector<float> m;
    for (int64_t c = 0; c < g.out_c; ++c) {
      const float product = x_scale * weight_scale[weight_scale.size() == 1 ? 0 : static_cast<size_t>(c)];
      m.push_back(product / y_scale);
    }
    return m;
  }
};

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed, 5) {}
  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_.below(static_cast<uint64_t>(most - least + 1)));
  }
  bool chance(double p) { return random_.uniform() < p; }

  template <class Code>
  Layer<Code> layer(const ConvGeometry& g) {
    constexpr bool kSigned = std::is_signed_v<Code>;
    const int64_t lowest = std::numeric_limits<Code>::lowest(), highest = std::numeric_limits<Code>::max();
    Layer<Code> l;
    l.g = g;
    l.x.resize(static_cast<size_t>(g.batch * g.in_h * g.in_w * g.in_c) + kBeyond);
    for (Code& code : l.x) code = static_cast<Code>(between(lowest, highest));
    l.weight.resize(static_cast<size_t>(g.out_c * g.depth()));
    for (Code& code : l.weight) code = static_cast<Code>(between(kSigned ? -127 : 0, highest));
    l.x_zero = static_cast<int32_t>(between(lowest, highest));
    l.weight_zero = kSigned ? 0 : static_cast<int32_t>(between(lowest, highest));
    l.y = {.lo = static_cast<int32_t>(between(lowest, lowest + 40)),
           .hi = static_cast<int32_t>(between(highest - 40, highest)),
           .zero_point = static_cast<int32_t>(between(lowest, highest))};
    // Scales that are powers of two make ties.
    const bool ties = chance(0.3);
    const auto scale = [&] {
      const double exponent = -7 + 4 * random_.uniform();
      return static_cast<float>(std::exp2(ties ? std::round(exponent) : exponent));
    };
    l.x_scale = scale();
    for (int64_t c = 0; c < (kSigned ? g.out_c : 1); ++c) l.weight_scale.push_back(scale());
    const double deviation = 74.0 * 74.0 * std::sqrt(static_cast<double>(g.depth()));  // of accumulators
    const double wanted = static_cast<double>(l.x_scale) * l.weight_scale[0] * deviation / 60;
    l.y_scale = static_cast<float>(ties ? std::exp2(std::round(std::log2(wanted))) : wanted);
    // What zero points off the middle add to every sum is taken away again: codes lie about the middle of the range.
    const double middle = (lowest + highest) / 2.0;
    const double mean = (middle - l.x_zero) * (kSigned ? 0 : middle - l.weight_zero) * static_cast<double>(g.depth());
    for (int64_t c = 0; c < g.out_c; ++c) {
      l.bias.push_back(static_cast<int32_t>((random_.uniform() * 2 - 1) * deviation - mean));
    }
    l.y.zero_point = static_cast<int32_t>(between(lowest + 90, highest - 90));
    return l;
  }

 private:
  CounterRng random_;
};

/// Owns an operator. Throws qat::Error with XNNPACK's status.
class Operator {
 public:
  Operator() { check(xnn_initialize(nullptr)); }
  ~Operator() { xnn_delete_operator(handle_); }
  Operator(const Operator&) = delete;
  Operator& operator=(const Operator&) = delete;

  static void check(xnn_status status) { QAT_CHECK(status == xnn_status_success, "XNNPACK: status {}", int{status}); }
  xnn_operator_t* out() { return &handle_; }
  xnn_operator_t get() const { return handle_; }
  void run() { check(xnn_run_operator(handle_, nullptr)); }

 private:
  xnn_operator_t handle_ = nullptr;
};

template <class Code, class Create>
void create(Operator& made, const Layer<Code>& l, const Create& function) {
  const ConvGeometry& g = l.g;
  const auto u = [](int64_t value) { return static_cast<uint32_t>(value); };
  const auto n = [](int64_t value) { return static_cast<size_t>(value); };
  const auto call = [&](auto... weight) {
    Operator::check(function(u(g.pad_top), u(g.pad_right), u(g.pad_bottom), u(g.pad_left), u(g.kernel_h), u(g.kernel_w),
                             u(g.stride_h), u(g.stride_w), u(g.dilation_h), u(g.dilation_w), u(g.groups),
                             n(g.in_c / g.groups), n(g.out_c / g.groups), n(g.in_c), n(g.out_c),
                             static_cast<Code>(l.x_zero), l.x_scale, weight..., l.weight.data(), l.bias.data(),
                             static_cast<Code>(l.y.zero_point), l.y_scale, static_cast<Code>(l.y.lo),
                             static_cast<Code>(l.y.hi), 0u, made.out()));
  };
  if constexpr (std::is_signed_v<Code>) {
    call(l.weight_scale.data());
  } else {
    call(static_cast<uint8_t>(l.weight_zero), l.weight_scale[0]);
  }
}

std::vector<int8_t> xnnpack(const Layer<int8_t>& l) {
  Operator op;
  create(op, l, xnn_create_convolution2d_nhwc_qc8);
  std::vector<int8_t> y(static_cast<size_t>(l.g.rows() * l.g.out_c) + kBeyond);
  Operator::check(xnn_setup_convolution2d_nhwc_qc8(op.get(), static_cast<size_t>(l.g.batch),
                                                   static_cast<size_t>(l.g.in_h), static_cast<size_t>(l.g.in_w),
                                                   l.x.data(), y.data(), nullptr));
  op.run();
  y.resize(y.size() - kBeyond);
  return y;
}

std::vector<uint8_t> xnnpack(const Layer<uint8_t>& l) {
  Operator op;
  create(op, l, xnn_create_convolution2d_nhwc_qu8);
  std::vector<uint8_t> y(static_cast<size_t>(l.g.rows() * l.g.out_c) + kBeyond);
  Operator::check(xnn_setup_convolution2d_nhwc_qu8(op.get(), static_cast<size_t>(l.g.batch),
                                                   static_cast<size_t>(l.g.in_h), static_cast<size_t>(l.g.in_w),
                                                   l.x.data(), y.data(), nullptr));
  op.run();
  y.resize(y.size() - kBeyond);
  return y;
}

template <class Code>
std::vector<Code> ours(const Layer<Code>& l) {
  const PackedConvolution<Code> packed(l.g, l.centred().data(), l.x_zero);
  std::vector<Code> y(static_cast<size_t>(l.g.rows() * l.g.out_c));
  packed.requantize(l.x.data(), l.g.batch, l.bias.data(), l.multiplier().data(), l.y, y.data());
  return y;
}

template <class Code>
int64_t differing(const std::vector<Code>& a, const std::vector<Code>& b) {
  QAT_CHECK(a.size() == b.size(), "{} and {} codes", a.size(), b.size());
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

/// The share of codes strictly inside the range: a test of nothing but limits would be none.
template <class Code>
double inside(const std::vector<Code>& y, const CodeRange& range) {
  return static_cast<double>(std::ranges::count_if(y, [&](Code c) { return c > range.lo && c < range.hi; })) /
         static_cast<double>(y.size());
}

ConvGeometry random_geometry(Dice& dice) {
  ConvGeometry g;
  g.batch = dice.between(1, 2);
  g.in_h = dice.between(5, 12), g.in_w = dice.between(5, 12);
  g.kernel_h = dice.between(1, 3), g.kernel_w = dice.between(1, 3);
  g.stride_h = dice.between(1, 2), g.stride_w = dice.between(1, 2);
  g.dilation_h = dice.between(1, 2), g.dilation_w = dice.between(1, 2);
  g.pad_top = dice.between(0, 1), g.pad_bottom = dice.between(0, 1);
  g.pad_left = dice.between(0, 1), g.pad_right = dice.between(0, 1);
  g.groups = dice.chance(0.6) ? 1 : dice.between(2, 4);
  if (dice.chance(0.2)) {  // depthwise
    g.groups = g.in_c = g.out_c = dice.between(1, 40);
  } else {
    g.in_c = g.groups * dice.between(1, 35), g.out_c = g.groups * dice.between(1, 20);
  }
  return g;
}

struct Comparison {
  int64_t compared = 0;
  double inside = 0;            // mean over the layers
  std::vector<uint64_t> seeds;  // of layers with differing codes
};

template <class Code>
Comparison compare_convolutions() {
  constexpr int kLayers = 250;
  Comparison result;
  for (uint64_t seed = 0; seed < kLayers; ++seed) {
    Dice dice(seed);
    const Layer<Code> layer = dice.layer<Code>(random_geometry(dice));
    const std::vector<Code> expected = xnnpack(layer);
    if (differing(expected, ours(layer)) != 0) result.seeds.push_back(seed);
    result.compared += static_cast<int64_t>(expected.size());
    result.inside += inside(expected, layer.y) / kLayers;
  }
  return result;
}

TEST(Xnnpack, ConvolutionsOfInt8CodesWithAScaleAChannel) {
  const Comparison result = compare_convolutions<int8_t>();
  EXPECT_EQ(result.seeds, std::vector<uint64_t>());
  EXPECT_GT(result.compared, 200000);
  EXPECT_GT(result.inside, 0.5);
}

TEST(Xnnpack, ConvolutionsOfUint8CodesAndWeightsWithZeroPoints) {
  const Comparison result = compare_convolutions<uint8_t>();
  EXPECT_EQ(result.seeds, std::vector<uint64_t>());
  EXPECT_GT(result.compared, 200000);
  EXPECT_GT(result.inside, 0.5);
}

TEST(Xnnpack, LinearLayers) {
  double share = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Dice dice(1000 + seed);
    ConvGeometry g;
    g.batch = dice.between(1, 5), g.in_c = dice.between(1, 300), g.out_c = dice.between(1, 60);
    const Layer<uint8_t> l = dice.layer<uint8_t>(g);
    Operator op;
    const auto in = static_cast<size_t>(g.in_c), out = static_cast<size_t>(g.out_c);
    Operator::check(xnn_create_fully_connected_nc_qu8(
        in, out, in, out, static_cast<uint8_t>(l.x_zero), l.x_scale, static_cast<uint8_t>(l.weight_zero),
        l.weight_scale[0], l.weight.data(), l.bias.data(), static_cast<uint8_t>(l.y.zero_point), l.y_scale,
        static_cast<uint8_t>(l.y.lo), static_cast<uint8_t>(l.y.hi), 0, op.out()));
    std::vector<uint8_t> y(static_cast<size_t>(g.batch * g.out_c) + kBeyond);
    Operator::check(
        xnn_setup_fully_connected_nc_qu8(op.get(), static_cast<size_t>(g.batch), l.x.data(), y.data(), nullptr));
    op.run();
    y.resize(y.size() - kBeyond);
    ASSERT_EQ(differing(y, ours(l)), 0) << "seed " << seed;
    share += inside(y, l.y);
  }
  EXPECT_GT(share / 100, 0.5);
}

/// A transposed convolution as a convolution of stride 1 of the spread map, with the kernel turned around.
TEST(Xnnpack, TransposedConvolutions) {
  int64_t compared = 0;
  double share = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Dice dice(2000 + seed);
    ConvGeometry g = random_geometry(dice);
    g.dilation_h = g.dilation_w = 1;
    const int64_t more_h = dice.between(0, g.stride_h - 1), more_w = dice.between(0, g.stride_w - 1);
    SpreadGeometry apart{.batch = g.batch, .in_h = g.in_h, .in_w = g.in_w, .channels = g.in_c};
    apart.step_h = g.stride_h, apart.step_w = g.stride_w;
    apart.pad_top = g.kernel_h - 1 - g.pad_top, apart.pad_bottom = g.kernel_h - 1 - g.pad_bottom + more_h;
    apart.pad_left = g.kernel_w - 1 - g.pad_left, apart.pad_right = g.kernel_w - 1 - g.pad_right + more_w;
    ConvGeometry dense = g;
    dense.in_h = apart.out_h(), dense.in_w = apart.out_w(), dense.stride_h = dense.stride_w = 1;
    dense.pad_top = dense.pad_bottom = dense.pad_left = dense.pad_right = 0;
    ASSERT_TRUE(dense.in_h >= g.kernel_h && dense.in_w >= g.kernel_w);
    Layer<uint8_t> given = dice.layer<uint8_t>(g);

    Operator op;
    create(op, given, xnn_create_deconvolution2d_nhwc_qu8);
    std::vector<uint8_t> y(static_cast<size_t>(dense.rows() * g.out_c) + kBeyond);
    Operator::check(xnn_setup_deconvolution2d_nhwc_qu8(
        op.get(), static_cast<size_t>(g.batch), static_cast<size_t>(g.in_h), static_cast<size_t>(g.in_w),
        static_cast<uint32_t>(more_h), static_cast<uint32_t>(more_w), given.x.data(), y.data(), nullptr));
    op.run();
    y.resize(y.size() - kBeyond);

    Layer<uint8_t> turned = given;
    turned.g = dense;
    const int64_t taps = g.kernel_h * g.kernel_w, group_in = g.in_c / g.groups;
    for (int64_t o = 0; o < g.out_c; ++o) {
      for (int64_t k = 0; k < taps; ++k) {
        std::copy_n(given.weight.data() + (o * taps + k) * group_in, group_in,
                    turned.weight.data() + (o * taps + taps - 1 - k) * group_in);
      }
    }
    turned.x.resize(static_cast<size_t>(g.batch * dense.in_h * dense.in_w * g.in_c));
    spread(apart, given.x.data(), static_cast<uint8_t>(given.x_zero), turned.x.data());
    ASSERT_EQ(differing(y, ours(turned)), 0) << "seed " << seed;
    compared += static_cast<int64_t>(y.size());
    share += inside(y, given.y);
  }
  EXPECT_GT(compared, 100000);
  EXPECT_GT(share / 100, 0.4);  // the zeros between pixels make sums smaller than their bias expects
}

}  // namespace
}  // namespace qat::ops
