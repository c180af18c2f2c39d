// `qat bench ops`: the kernels of a training step, one by one, beside a copy, the machine's peak and LibTorch's.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "core/ops/convolve.h"
#include "core/ops/convolve_gradient.h"
#include "core/ops/peak.h"
#include "core/ops/pointwise.h"
#include "core/ops/requantize.h"
#include "core/ops/sgd.h"
#include "core/ops/targets.h"
#include "core/ops/weight_codes.h"
#include "trainers/bench.h"

namespace qat::trainers {
namespace {

using Json = nlohmann::ordered_json;

/// The shortest of several runs in milliseconds.
double shortest(const std::function<void()>& run) {
  double best = 1e30;
  run();
  for (int i = 0; i < 15; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    best = std::min(best, spent.count());
  }
  return best;
}

double peak(ops::Product kind) {
  constexpr int64_t kProducts = 50'000'000;
  int64_t done = 0;
  const double spent = shortest([&] { done = ops::multiply_in_registers(kind, kProducts); });
  return static_cast<double>(done) / spent * 1e-6;
}

std::vector<uint8_t> random_codes(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> codes(static_cast<size_t>(n));
  for (auto& code : codes) code = static_cast<uint8_t>(random());
  return codes;
}

/// Passes over a matrix of 4 M elements, of 64 channels.
struct Matrix {
  static constexpr int64_t kRows = 65536, kChannels = 64, kSize = kRows * kChannels;
  std::vector<int32_t> acc = std::vector<int32_t>(kSize, 1234);
  std::vector<uint8_t> codes = random_codes(kSize, 1), other = random_codes(kSize, 2);
  std::vector<uint8_t> sums = codes, mask = random_codes(kSize / 8, 3);
  std::vector<int16_t> kept = std::vector<int16_t>(kSize, 55);
  std::vector<int8_t> weights = std::vector<int8_t>(kSize);
  std::vector<float> g = std::vector<float>(kSize, 0.5f), dx = g, v = g;
  std::vector<int32_t> middle = std::vector<int32_t>(kChannels, 10);
  std::vector<float> one = std::vector<float>(kChannels, 0.01f);
  std::vector<float> scales = std::vector<float>(kRows, 0.01f);
  std::vector<double> s1 = std::vector<double>(kChannels), s2 = s1;
};

Json passes(double copy_gb_s) {
  Matrix m;
  constexpr int64_t kRows = Matrix::kRows, kChannels = Matrix::kChannels, kSize = Matrix::kSize;
  const ops::KeptAccumulators kept{.compact = m.kept.data(), .middle = m.middle.data(), .step = m.one.data()};
  Json rows = Json::array();
  const auto add = [&](const char* name, double bytes, const std::function<void()>& run) {
    const double ns = shortest(run) * 1e6 / static_cast<double>(kSize);
    rows.push_back({{"name", name},
                    {"ns_per_element", ns},
                    {"bytes_per_element", bytes},
                    {"gb_s", bytes / ns},
                    {"of_copy", bytes / ns / copy_gb_s}});
  };
  add("statistics", 4, [&] { ops::channel_statistics(m.acc.data(), kRows, kChannels); });
  const ops::Compaction compaction{m.middle.data(), m.one.data(), m.kept.data()};
  add("codes, mask, int16", 7.125, [&] {
    ops::requantize_affine(m.acc.data(), kRows, kChannels, m.one.data(), m.one.data(), {}, m.codes.data(),
                           m.mask.data(), true, &compaction);
  });
  add("requantize, mask", 5.125, [&] {
    ops::requantize(m.acc.data(), kRows, kChannels, m.middle.data(), m.one.data(), {}, m.codes.data(), m.mask.data());
  });
  add("sums of gradients", 6.125,
      [&] { ops::reduce_gradient(m.g.data(), m.mask.data(), kept, kRows, kChannels, m.s1.data(), m.s2.data()); });
  double sum = 0;
  const ops::ScaleGradient scale{m.codes.data(), m.one.data(), m.one.data(), {}, &sum};
  add("sums of gradients, with a scale's", 7.125, [&] {
    ops::reduce_gradient(m.g.data(), m.mask.data(), kept, kRows, kChannels, m.s1.data(), m.s2.data(), &scale);
  });
  add("batch norm's gradient", 10.125, [&] {
    ops::batch_norm_gradient(m.g.data(), m.mask.data(), kept, kRows, kChannels, m.one.data(), m.one.data(),
                             m.one.data(), m.dx.data());
  });
  add("masked gradient", 8.125, [&] { ops::mask_gradient(m.g.data(), m.mask.data(), kSize, m.dx.data()); });
  const ops::BinaryParams params{.scale_a = 0.5f, .scale_b = 0.25f};
  add("add, mask", 3.125,
      [&] { ops::add(m.codes.data(), m.other.data(), kSize, params, m.sums.data(), m.mask.data(), true); });
  add("gradients of an add, with a scale's", 11.125, [&] {
    sum = ops::add_scale_gradient(m.g.data(), {m.codes.data()}, {m.other.data()}, {m.sums.data()}, m.mask.data(), kSize,
                                  params, m.dx.data());
  });
  add("range of a sum", 2, [&] { ops::add_range(m.codes.data(), m.other.data(), kSize, params); });
  add("codes of weights", 5,
      [&] { ops::encode_weights(m.g.data(), kRows, kChannels, m.scales.data(), -127, 127, m.weights.data()); });
  add("gradient of weights' codes", 12, [&] {
    ops::encode_weights_gradient(m.g.data(), m.v.data(), kRows, kChannels, m.scales.data(), -8, 7, false, m.dx.data(),
                                 nullptr);
  });
  add("sgd with momentum", 20, [&] {
    ops::sgd_step({.learning_rate = 1e-6f, .momentum = 0.9f, .weight_decay = 1e-4f}, m.g.data(), kSize, false,
                  m.v.data(), m.dx.data());
  });
  return rows;
}

struct Shape {
  const char* name;
  int64_t batch, size, in, out, kernel, stride, groups;
};

constexpr Shape kShapes[] = {{"16 to 16, 32x32, batch 16", 16, 32, 16, 16, 3, 1, 1},
                             {"16 to 32, 32x32 stride 2, batch 16", 16, 32, 16, 32, 3, 2, 1},
                             {"32 to 32, 16x16, batch 16", 16, 16, 32, 32, 3, 1, 1},
                             {"64 to 64, 8x8, batch 64", 64, 8, 64, 64, 3, 1, 1},
                             {"64 to 64, 28x28, batch 8", 8, 28, 64, 64, 3, 1, 1},
                             {"128 to 128, 14x14, batch 8", 8, 14, 128, 128, 3, 1, 1},
                             {"256 to 256, 7x7, batch 8", 8, 7, 256, 256, 3, 1, 1},
                             {"512 to 512, 4x4, batch 8", 8, 4, 512, 512, 3, 1, 1},
                             {"64 to 128, 28x28 stride 2, batch 8", 8, 28, 64, 128, 3, 2, 1},
                             {"3 to 64, 112x112 7x7 stride 2, batch 2", 2, 112, 3, 64, 7, 2, 1},
                             {"24 to 144, 28x28 1x1, batch 8", 8, 28, 24, 144, 1, 1, 1},
                             {"144 to 24, 28x28 1x1, batch 8", 8, 28, 144, 24, 1, 1, 1},
                             {"144 depthwise, 28x28, batch 8", 8, 28, 144, 144, 3, 1, 144}};

Json convolution(const Shape& s) {
  const int64_t pad = s.kernel / 2;
  const ops::ConvGeometry g{.batch = s.batch,
                            .in_h = s.size,
                            .in_w = s.size,
                            .in_c = s.in,
                            .out_c = s.out,
                            .kernel_h = s.kernel,
                            .kernel_w = s.kernel,
                            .stride_h = s.stride,
                            .stride_w = s.stride,
                            .pad_top = pad,
                            .pad_left = pad,
                            .pad_bottom = pad,
                            .pad_right = pad,
                            .groups = s.groups};
  const double products = static_cast<double>(g.rows() * g.out_c * g.depth());
  const auto speed = [&](const std::function<void()>& run) { return products / shortest(run) * 1e-6; };
  const auto last = at::MemoryFormat::ChannelsLast;
  const at::Tensor x = at::randn({s.batch, s.in, s.size, s.size}).contiguous(last),
                   w = at::randn({s.out, s.in / s.groups, s.kernel, s.kernel}).contiguous(last);
  const auto forward = [&] { return at::conv2d(x, w, {}, s.stride, pad, 1, s.groups); };
  const at::Tensor grad = at::randn(forward().sizes()).contiguous(last);
  const auto backward = [&](bool input, bool weight) {
    at::convolution_backward(grad, x, w, at::OptionalIntArrayRef(), {s.stride, s.stride}, {pad, pad}, {1, 1}, false,
                             {0, 0}, s.groups, {input, weight, false});
  };
  Json row{{"shape", s.name}};
  row["float_gmac_s"] = speed([&] { forward(); });
  std::vector<int32_t> acc(static_cast<size_t>(g.rows() * g.out_c));
  for (const auto& [name, weights, codes] : {std::tuple("a8w8", 127, 255), std::tuple("a4w4", 7, 15)}) {
    const at::Tensor xq = at::randint(codes + 1, x.numel(), at::kByte),
                     wq = at::randint(-weights, weights + 1, w.numel(), at::kChar);
    const ops::PackedConvolution<uint8_t> packed(g, wq.const_data_ptr<int8_t>(), 0, codes);
    row[std::string(name) + "_gmac_s"] =
        speed([&] { packed.accumulate(xq.const_data_ptr<uint8_t>(), g.batch, acc.data()); });
    row[std::string(name) + "_kernel"] = packed.kernel();
  }
  const at::Tensor xq = at::randint(256, x.numel(), at::kByte), wq = at::randint(-127, 128, w.numel(), at::kChar);
  const std::vector<float> scale(static_cast<size_t>(s.out), 0.01f);
  std::vector<float> dw(static_cast<size_t>(w.numel())), dx(static_cast<size_t>(x.numel()));
  const float* dy = grad.const_data_ptr<float>();
  row["float_weight_gradient_gmac_s"] = speed([&] { backward(false, true); });
  row["weight_gradient_gmac_s"] =
      speed([&] { ops::weight_gradient(g, xq.const_data_ptr<uint8_t>(), 3, dy, scale.data(), dw.data()); });
  row["float_input_gradient_gmac_s"] = speed([&] { backward(true, false); });
  row["input_gradient_gmac_s"] =
      speed([&] { ops::input_gradient(g, dy, wq.const_data_ptr<int8_t>(), scale.data(), dx.data()); });
  return row;
}

}  // namespace

Json ops_bench(int64_t threads, const std::string& isa) {
  ops::limit_vector_target(isa);
  at::set_num_threads(static_cast<int>(threads));
  const at::NoGradGuard no_grad;
  std::vector<char> from(32 << 20, 1), to(from.size());
  const double copy_gb_s =
      2e-6 * static_cast<double>(from.size()) / shortest([&] { std::memcpy(to.data(), from.data(), from.size()); });
  Json report{{"vector_target", ops::vector_target()},
              {"libtorch_capability", at::get_cpu_capability()},
              {"threads", threads},
              {"copy_gb_s", copy_gb_s},
              {"peak_float_gmac_s", peak(ops::Product::kFloat)},
              {"peak_int16_gmac_s", peak(ops::Product::kPairs)},
              {"passes", passes(copy_gb_s)}};
  Json& convolutions = report["convolutions"] = Json::array();
  for (const Shape& shape : kShapes) convolutions.push_back(convolution(shape));
  return report;
}

}  // namespace qat::trainers
