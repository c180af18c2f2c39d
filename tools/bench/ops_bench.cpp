// Speed of the convolution kernels: items per second are multiply-accumulates per second, padding not counted.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/ops/convolve.h"
#include "core/ops/convolve_gradient.h"
#include "core/ops/pointwise.h"
#include "core/ops/requantize.h"
#include "core/ops/weight_codes.h"

namespace qat::ops {
namespace {

ConvGeometry square(int64_t batch, int64_t size, int64_t in_c, int64_t out_c, int64_t kernel, int64_t pad,
                    int64_t groups = 1) {
  return {.batch = batch,
          .in_h = size,
          .in_w = size,
          .in_c = in_c,
          .out_c = out_c,
          .kernel_h = kernel,
          .kernel_w = kernel,
          .pad_top = pad,
          .pad_left = pad,
          .pad_bottom = pad,
          .pad_right = pad,
          .groups = groups};
}

void run_convolve(benchmark::State& state, const ConvGeometry& g) {
  omp_set_num_threads(1);
  const std::vector<uint8_t> x(static_cast<size_t>(g.batch * g.in_h * g.in_w * g.in_c), 77);
  const std::vector<int16_t> w(static_cast<size_t>(g.out_c * g.depth()), -5);
  std::vector<int32_t> acc(static_cast<size_t>(g.rows() * g.out_c));
  for (auto _ : state) {
    convolve(g, x.data(), 3, w.data(), acc.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * g.rows() * g.out_c * g.depth());
}

/// The element-wise passes on a [rows][channels] matrix: items per second are elements per second.
struct Passes {
  Passes(int64_t r, int64_t c)
      : rows(r),
        channels(c),
        acc(r * c, 1234),
        codes(r * c, 9),
        kept(r * c, 55),
        mask((r * c + 7) / 8, 0xa5),
        g(r * c, 0.5f),
        dx(r * c),
        bias(c, 5),
        middle(c, 10),
        multiplier(c, 0.01f),
        offset(c, 0.5f),
        s1(c),
        s2(c) {}
  KeptAccumulators compacted() const {
    return {.compact = kept.data(), .middle = middle.data(), .step = multiplier.data()};
  }
  int64_t rows, channels;
  std::vector<int32_t> acc;
  std::vector<uint8_t> codes;
  std::vector<int16_t> kept;
  std::vector<uint8_t> mask;
  std::vector<float> g, dx;
  std::vector<int32_t> bias, middle;
  std::vector<float> multiplier, offset;
  std::vector<double> s1, s2;
};

template <class Pass>
void run_pass(benchmark::State& state, const Pass& pass) {
  omp_set_num_threads(1);
  Passes p(8 * 28 * 28, state.range(0));
  for (auto _ : state) {
    pass(p);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * p.rows * p.channels);
}

void reduce_with_scale(Passes& p) {
  double sum = 0;
  const ScaleGradient scale{p.codes.data(), p.multiplier.data(), p.offset.data(), {}, &sum};
  reduce_gradient(p.g.data(), p.mask.data(), p.compacted(), p.rows, p.channels, p.s1.data(), p.s2.data(), &scale);
  benchmark::DoNotOptimize(sum);
}

#define QAT_PASS(name, ...)                                           \
  void name(benchmark::State& state) {                                \
    run_pass(state, []([[maybe_unused]] Passes& p) { __VA_ARGS__; }); \
  }                                                                   \
  BENCHMARK(name)->Arg(64)->Arg(24)->Arg(144)
QAT_PASS(Statistics, benchmark::DoNotOptimize(channel_statistics(p.acc.data(), p.rows, p.channels)));
QAT_PASS(Requantize, requantize(p.acc.data(), p.rows, p.channels, p.bias.data(), p.multiplier.data(), {},
                                p.codes.data(), p.mask.data(), true));
QAT_PASS(RequantizeAffine, requantize_affine(p.acc.data(), p.rows, p.channels, p.multiplier.data(), p.offset.data(), {},
                                             p.codes.data(), p.mask.data(), true));
QAT_PASS(Compact, compact(p.acc.data(), p.rows, p.channels, p.middle.data(), p.multiplier.data(), p.kept.data()));
QAT_PASS(ReduceGradient,
         reduce_gradient(p.g.data(), p.mask.data(), p.compacted(), p.rows, p.channels, p.s1.data(), p.s2.data()));
QAT_PASS(BatchNormGradient, batch_norm_gradient(p.g.data(), p.mask.data(), p.compacted(), p.rows, p.channels,
                                                p.multiplier.data(), p.offset.data(), p.offset.data(), p.dx.data()));
QAT_PASS(MaskGradient, mask_gradient(p.g.data(), p.mask.data(), p.rows* p.channels, p.dx.data()));
QAT_PASS(ReduceGradientOfScale, reduce_with_scale(p));
#undef QAT_PASS

#define QAT_CONVOLVE(name, ...) BENCHMARK_CAPTURE(run_convolve, name, ConvGeometry(__VA_ARGS__))
QAT_CONVOLVE(c16_32x32_b64, square(64, 32, 16, 16, 3, 1));
QAT_CONVOLVE(c32_16x16_b64, square(64, 16, 32, 32, 3, 1));
QAT_CONVOLVE(c64_8x8_b64, square(64, 8, 64, 64, 3, 1));
QAT_CONVOLVE(c64_28x28_b8, square(8, 28, 64, 64, 3, 1));
QAT_CONVOLVE(c128_14x14_b8, square(8, 14, 128, 128, 3, 1));
QAT_CONVOLVE(c256_7x7_b8, square(8, 7, 256, 256, 3, 1));
QAT_CONVOLVE(c512_4x4_b8, square(8, 4, 512, 512, 3, 1));
QAT_CONVOLVE(c64_56x56_b1, square(1, 56, 64, 64, 3, 1));
QAT_CONVOLVE(c256_14x14_b1, square(1, 14, 256, 256, 3, 1));
QAT_CONVOLVE(stem3_64_112x112_b8, square(8, 112, 3, 64, 7, 3));
QAT_CONVOLVE(p24_144_28x28_b8, square(8, 28, 24, 144, 1, 0));
QAT_CONVOLVE(p144_24_28x28_b8, square(8, 28, 144, 24, 1, 0));
QAT_CONVOLVE(p64_384_7x7_b8, square(8, 7, 64, 384, 1, 0));
QAT_CONVOLVE(p384_64_7x7_b8, square(8, 7, 384, 64, 1, 0));
QAT_CONVOLVE(depthwise144_28x28_b8, square(8, 28, 144, 144, 3, 1, 144));
QAT_CONVOLVE(lenet_conv1_b128, square(128, 28, 1, 32, 5, 0));
QAT_CONVOLVE(lenet_conv2_b128, square(128, 12, 32, 64, 5, 0));
QAT_CONVOLVE(linear1024_512_b128, square(128, 1, 1024, 512, 1, 0));
QAT_CONVOLVE(linear512_1000_b1, square(1, 1, 512, 1000, 1, 0));
#undef QAT_CONVOLVE

/// Made before anything is counted: how many instructions clear memory differs by machine.
template <class T>
std::shared_ptr<std::vector<T>> shared(int64_t size, T value) {
  return std::make_shared<std::vector<T>>(static_cast<size_t>(size), value);
}
std::shared_ptr<std::vector<uint8_t>> codes_of(const ConvGeometry& g) {
  return shared(g.batch * g.in_h * g.in_w * g.in_c, uint8_t{1});
}

/// Kernels that run once for `--count NAME`, whose instructions tools/bench/instructions counts.
const std::map<std::string, std::function<void()>>& counted() {
  const auto convolution = [](const ConvGeometry& g, int weight, int code) {
    return [=, x = codes_of(g), w = shared(g.out_c * g.depth(), static_cast<int16_t>(weight)),
            acc = shared(g.rows() * g.out_c, int32_t{0})] {
      PackedConvolution<uint8_t>(g, w->data(), 0, code).accumulate(x->data(), g.batch, acc->data());
    };
  };
  const auto narrow = [](const ConvGeometry& g) {
    return
        [=, x = codes_of(g), w = shared(g.out_c * g.depth(), int8_t{3}), acc = shared(g.rows() * g.out_c, int16_t{0})] {
          ChannelStatistics statistics;
          PackedConvolution<uint8_t>(g, w->data(), 0, 15).accumulate(x->data(), g.batch, acc->data(), &statistics);
        };
  };
  const auto gradients = [](const ConvGeometry& g) {
    const auto x = codes_of(g);
    return [=, w = shared(g.out_c * g.depth(), int8_t{3}), grad = shared(g.rows() * g.out_c, 0.5f),
            scale = shared(g.out_c, 0.1f), dw = shared(g.out_c * g.depth(), 0.0f),
            dx = shared(static_cast<int64_t>(x->size()), 0.0f)] {
      weight_gradient(g, x->data(), 0, grad->data(), scale->data(), dw->data());
      input_gradient(g, grad->data(), w->data(), scale->data(), dx->data());
    };
  };
  const auto passes = std::make_shared<Passes>(8 * 28 * 28, 64);
  static const std::map<std::string, std::function<void()>> all{
      {"convolution_pairs", convolution(square(1, 28, 64, 64, 3, 1), 127, 255)},
      {"convolution_quads", convolution(square(1, 28, 64, 64, 3, 1), 63, 255)},
      {"convolution_quads_flushed", convolution(square(1, 28, 64, 64, 3, 1), 7, 15)},
      {"convolution_pointwise", convolution(square(1, 28, 24, 144, 1, 0), 127, 255)},
      {"convolution_depthwise", convolution(square(1, 28, 144, 144, 3, 1, 144), 127, 255)},
      {"convolution_narrow", narrow(square(1, 28, 32, 32, 3, 1))},
      {"gradients_direct", gradients(square(4, 32, 16, 16, 3, 1))},
      {"gradients_minimal_filtering", gradients(square(1, 28, 64, 64, 3, 1))},
      {"gradients_stem", gradients(square(1, 32, 3, 16, 3, 1))},
      {"gradients_depthwise", gradients(square(1, 28, 144, 144, 3, 1, 144))},
      {"pass_forward",
       [passes] {
         Passes& p = *passes;
         const Compaction kept{p.middle.data(), p.multiplier.data(), p.kept.data()};
         requantize_affine(p.acc.data(), p.rows, p.channels, p.multiplier.data(), p.offset.data(), {}, p.codes.data(),
                           p.mask.data(), true, &kept);
       }},
      {"pass_backward",
       [passes] {
         Passes& p = *passes;
         reduce_with_scale(p);
         batch_norm_gradient(p.g.data(), p.mask.data(), p.compacted(), p.rows, p.channels, p.multiplier.data(),
                             p.offset.data(), p.offset.data(), p.dx.data());
       }},
      {"pass_sums_exact",
       [passes] {
         Passes& p = *passes;
         reduce_gradient(p.g.data(), p.mask.data(), {.exact = p.acc.data()}, p.rows, p.channels, p.s1.data(),
                         p.s2.data());
       }},
      {"pass_codes_of_weights",
       [w = shared(256 * 144, 0.3f), scale = shared(256, 0.1f), codes = shared(256 * 144, int8_t{0})] {
         encode_weights(w->data(), 256, 144, scale->data(), -8, 7, codes->data());
       }},
      {"pass_add",
       [passes] {
         Passes& p = *passes;
         add(p.codes.data(), p.codes.data(), p.rows * p.channels, {}, p.codes.data(), p.mask.data(), true);
       }},
      {"pass_statistics",
       [passes] {
         Passes& p = *passes;
         channel_statistics(p.acc.data(), p.rows, p.channels);
       }},
  };
  return all;
}

}  // namespace
}  // namespace qat::ops

/// Where callgrind counts.
extern "C" __attribute__((noinline)) void qat_counted(const std::function<void()>& run) { run(); }

int main(int argc, char** argv) {
  using qat::ops::counted;
  if (argc == 2 && std::string(argv[1]) == "--list") {
    for (const auto& [name, run] : counted()) {
      std::puts(name.c_str());
    }
    return 0;
  }
  if (argc == 3 && std::string(argv[1]) == "--count") {
    omp_set_num_threads(1);
    const auto found = counted().find(argv[2]);
    if (found == counted().end()) return 2;
    found->second();  // what happens once, at the first call, is not counted
    qat_counted(found->second);
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
