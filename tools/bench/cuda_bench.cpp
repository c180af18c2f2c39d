// Speed of the CUDA kernels on the current GPU: the fused passes against a copy inside its memory, the convolutions in
// multiplications and additions per second (padding not counted).
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "core/ops/cuda/convolve.h"
#include "core/ops/cuda/convolve_gradient.h"
#include "core/ops/cuda/device.h"
#include "core/ops/cuda/encode.h"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/cuda/pool.h"
#include "core/ops/cuda/reduce_gradient.h"
#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/statistics.h"

namespace qat::ops::cuda {
namespace {

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(status));
  std::exit(1);
}

/// Device memory full of random bytes, freed with the process.
template <class T>
T* random_array(int64_t n) {
  static const std::vector<uint64_t> kRandom = [] {
    std::mt19937_64 random(1);
    std::vector<uint64_t> values(1 << 20);
    for (uint64_t& v : values) v = random();
    return values;
  }();
  void* bytes = nullptr;
  const size_t size = static_cast<size_t>(n) * sizeof(T), piece = kRandom.size() * sizeof(uint64_t);
  check(cudaMalloc(&bytes, size));
  for (size_t at = 0; at < size; at += piece) {
    check(
        cudaMemcpy(static_cast<char*>(bytes) + at, kRandom.data(), std::min(piece, size - at), cudaMemcpyHostToDevice));
  }
  return static_cast<T*>(bytes);
}

template <class T>
T* filled(int64_t n, T value) {
  const std::vector<T> values(static_cast<size_t>(n), value);
  T* array = random_array<T>(n);
  check(cudaMemcpy(array, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return array;
}

/// Milliseconds of one call: the median of several batches of calls.
template <class Call>
double milliseconds(const Call& call) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  const auto batch = [&](int calls) {
    check(cudaEventRecord(begin));
    for (int i = 0; i < calls; ++i) call();
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    return static_cast<double>(ms) / calls;
  };
  batch(3);
  std::vector<double> times(7);
  for (double& t : times) t = batch(10);
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  std::ranges::nth_element(times, times.begin() + 3);
  return times[3];
}

double copy_rate = 1;

template <class Call>
void run_pass(const char* name, double bytes, const Call& call) {
  const double ms = milliseconds(call), rate = bytes / ms * 1e-6;
  std::printf("%-34s %9.4f ms %8.0f GB/s %5.2f of a copy\n", name, ms, rate, rate / copy_rate);
}

void run_passes(int64_t rows, int64_t channels) {
  const int64_t n = rows * channels;
  const auto d = static_cast<double>(n);
  std::printf("\n[%ld][%ld]\n", rows, channels);
  const auto* acc = random_array<int32_t>(n);
  const auto *g = filled<float>(n, 0.37f), *ones = filled<float>(channels, 1.0f);
  const auto *multiplier = filled<float>(channels, 1e-8f), *offset = filled<float>(channels, 3.0f);
  const auto *middle = filled<int32_t>(channels, 5), *zero = filled<int32_t>(1, 3);
  const auto *a = random_array<uint8_t>(n), *b = random_array<uint8_t>(n), *mask = random_array<uint8_t>(n / 8);
  auto *codes = random_array<uint8_t>(n), *inside = random_array<uint8_t>(n / 8);
  auto* kept = random_array<int16_t>(n);
  auto* dx = random_array<float>(n);
  auto *s1 = random_array<double>(channels), *s2 = random_array<double>(channels);
  auto* ds = filled<float>(1, 0.0f);
  auto* arrived = filled<int32_t>(reduce_gradient_counters(channels), 0);
  const ChannelSums sums{filled<unsigned long long>(ChannelSums::kWords * channels, 0), channels};
  void* scratch = random_array<char>(
      static_cast<int64_t>(std::max(reduce_gradient_scratch(rows, channels), add_scale_gradient_scratch(n))));
  const KeptAccumulators compacted{.compact = kept, .middle = middle, .step = ones};
  const LayerGradient layer{rows, channels, g, mask, compacted};
  const DeviceRange range{0, 255, zero};
  const BinaryParams params{ones, ones, ones, zero, zero, range};

  copy_rate = 8 * d / milliseconds([&] { cudaMemcpyAsync(dx, g, n * 4, cudaMemcpyDeviceToDevice); }) * 1e-6;
  std::printf("%-34s %21.0f GB/s\n", "copy", copy_rate);
  run_pass("encode + mask", 5.125 * d, [&] { encode(g, n, ones, range, codes, inside, nullptr); });
  run_pass("statistics", 4 * d, [&] { channel_statistics(acc, rows, sums, nullptr); });
  run_pass("live pass (codes, mask)", 5.125 * d, [&] {
    requantize_affine(acc, rows, channels, multiplier, offset, range, codes, inside, true, {}, nullptr);
  });
  run_pass("live pass (codes, mask, int16)", 7.125 * d, [&] {
    requantize_affine(acc, rows, channels, multiplier, offset, range, codes, inside, true, {middle, multiplier, kept},
                      nullptr);
  });
  run_pass("requantize (codes, mask)", 5.125 * d,
           [&] { requantize(acc, rows, channels, middle, multiplier, range, codes, inside, true, nullptr); });
  run_pass("reduce gradient (int16)", 6.125 * d, [&] {
    reduce_gradient(layer, {}, {.s1 = s1, .s2 = s2}, {}, {scratch, arrived}, nullptr);
  });
  const ScaleGradient of_scale{a, multiplier, offset, zero, 1.0, ds};
  run_pass("reduce gradient, with a scale's", 7.125 * d, [&] {
    reduce_gradient(layer, {}, {.s1 = s1, .s2 = s2}, of_scale, {scratch, arrived}, nullptr);
  });
  const ConvGeometry linear{.batch = rows, .in_c = channels, .out_c = channels};
  const ProductGradient dy{
      .g = g, .inside = mask, .slope = multiplier, .inner = offset, .constant = offset, .kept = compacted};
  run_pass("batch norm gradient (int16), operand", 10.125 * d,
           [&] { gradient_operand(linear, GradientPrecision::kFloat, dy, multiplier, dx, nullptr); });
  run_pass("the same in bfloat16", 8.125 * d,
           [&] { gradient_operand(linear, GradientPrecision::kBfloat16, dy, multiplier, dx, nullptr); });
  run_pass("mask gradient", 8.125 * d, [&] { mask_gradient(g, mask, n, dx, nullptr); });
  run_pass("add + mask", 3.125 * d, [&] { add(a, b, n, params, codes, inside, true, nullptr); });
  run_pass("add scale gradient", 7.125 * d,
           [&] { add_scale_gradient(g, a, b, codes, mask, n, params, 1.0, ds, scratch, nullptr); });
  PoolGeometry pool;
  pool.batch = rows / (56 * 56), pool.in_h = pool.in_w = 56, pool.channels = channels;
  pool.kernel_h = pool.kernel_w = 3, pool.stride_h = pool.stride_w = 2;
  pool.pad_top = pool.pad_left = pool.pad_bottom = pool.pad_right = 1;
  auto* winner = reinterpret_cast<uint16_t*>(kept);
  run_pass("max pool 3x3 s2", 1.75 * d, [&] { max_pool(pool, a, codes, winner, nullptr); });
  run_pass("max pool gradient", 5.5 * d, [&] { max_pool_gradient(pool, g, winner, dx, nullptr); });
}

struct Shape {
  int64_t batch, size, in_c, out_c, kernel, stride;
  int64_t groups = 1;
};

/// Both gradients, and the pass that makes their operand, in both precisions.
void run_gradients(const ConvGeometry& g, const uint8_t* x, const int8_t* w, const int32_t* zero) {
  auto *dy = filled<float>(g.rows() * g.out_c, 0.37f), *scale = filled<float>(g.out_c, 0.01f);
  auto *dx = random_array<float>(g.batch * g.in_h * g.in_w * g.in_c), *dw = random_array<float>(g.out_c * g.depth());
  const double products = 2e-9 * static_cast<double>(g.rows() * g.out_c * g.depth());
  for (const GradientPrecision precision : {GradientPrecision::kFloat, GradientPrecision::kBfloat16}) {
    auto* operand = random_array<char>(static_cast<int64_t>(gradient_operand_bytes(g, precision)));
    auto* scratch = random_array<char>(static_cast<int64_t>(
        std::max(input_gradient_scratch(g, precision), weight_gradient_scratch(g, precision)) + 16));
    const double split = milliseconds([&] { gradient_operand(g, precision, {.g = dy}, scale, operand, nullptr); });
    const double input = milliseconds([&] { input_gradient(g, precision, operand, w, false, dx, scratch, nullptr); });
    const double weight =
        milliseconds([&] { weight_gradient(g, precision, x, zero, operand, scale, dw, scratch, nullptr); });
    std::printf("    %-9s operand %9.4f ms, inputs %9.4f ms %7.1f TFLOP/s, weights %9.4f ms %7.1f TFLOP/s\n",
                precision == GradientPrecision::kFloat ? "float" : "bfloat16", split, input, products / input, weight,
                products / weight);
    for (char* array : {operand, scratch}) check(cudaFree(array));
  }
  for (float* array : {dy, scale, dx, dw}) check(cudaFree(array));
}

void run_convolution(const Shape& s) {
  const int64_t pad = s.kernel / 2;
  const ConvGeometry g{.batch = s.batch,
                       .in_h = s.size,
                       .in_w = s.size,
                       .in_c = s.in_c,
                       .out_c = s.out_c,
                       .kernel_h = s.kernel,
                       .kernel_w = s.kernel,
                       .stride_h = s.stride,
                       .stride_w = s.stride,
                       .pad_top = pad,
                       .pad_left = pad,
                       .pad_bottom = pad,
                       .pad_right = pad,
                       .groups = s.groups};
  auto* x = random_array<uint8_t>(s.batch * s.size * s.size * s.in_c);
  auto* w = random_array<int8_t>(g.out_c * g.depth());
  auto* acc = random_array<int32_t>(g.rows() * g.out_c);
  const auto* zero = filled<int32_t>(1, 117);
  const ChannelSums sums{filled<unsigned long long>(ChannelSums::kWords * g.out_c, 0), g.out_c};
  const double ms = milliseconds([&] { convolve(g, x, zero, w, acc, {}, nullptr); });
  const double counted = milliseconds([&] { convolve(g, x, zero, w, acc, sums, nullptr); });
  const double bytes = static_cast<double>(s.batch * s.size * s.size * s.in_c + 4 * g.rows() * g.out_c);
  std::printf(
      "b%-4ld %4ldx%-4ld %4ld -> %-4ld %ldx%ld s%ld g%-4ld %9.4f ms %8.1f TOP/s %8.0f GB/s, with statistics %9.4f ms\n",
      s.batch, s.size, s.size, s.in_c, s.out_c, s.kernel, s.kernel, s.stride, s.groups, ms,
      2e-9 * static_cast<double>(g.rows() * g.out_c * g.depth()) / ms, bytes / ms * 1e-6, counted);
  run_gradients(g, x, w, zero);
  for (void* array : {static_cast<void*>(x), static_cast<void*>(w), static_cast<void*>(acc)}) check(cudaFree(array));
}

int run() {
  char reason[256] = "";
  if (qat_cuda_device_count(reason, sizeof(reason)) == 0) {
    std::fprintf(stderr, "%s\n", reason);
    return 1;
  }
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  run_passes(64 * 56 * 56, 64);
  run_passes(64 * 56 * 56, 256);
  std::printf("\n");
  for (const Shape& s : std::vector<Shape>{{64, 224, 3, 64, 7, 2},
                                           {64, 56, 64, 64, 3, 1},
                                           {64, 56, 64, 256, 1, 1},
                                           {64, 56, 256, 64, 1, 1},
                                           {64, 28, 128, 128, 3, 1},
                                           {64, 14, 256, 256, 3, 1},
                                           {64, 7, 512, 512, 3, 1},
                                           {64, 14, 1024, 2048, 1, 2},
                                           {256, 28, 512, 512, 3, 1},
                                           {8, 4, 512, 512, 3, 1},
                                           {128, 32, 16, 16, 3, 1},
                                           {128, 1, 4096, 4096, 1, 1},
                                           {64, 28, 24, 144, 1, 1},
                                           {64, 28, 144, 144, 3, 1, 144},
                                           {64, 56, 128, 128, 3, 1, 32}}) {
    run_convolution(s);
  }
  return 0;
}

}  // namespace
}  // namespace qat::ops::cuda

int main() { return qat::ops::cuda::run(); }
