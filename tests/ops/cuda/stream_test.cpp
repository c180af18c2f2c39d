// Every function only puts work into its stream: a graph captures them all, which a wait, an allocation or work in
// another stream would break, and the graph computes what direct calls do.
#include <tuple>
#include <utility>

#include "core/ops/cuda/convolve.h"
#include "core/ops/cuda/encode.h"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/cuda/pool.h"
#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/statistics.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaStream : public GpuTest {};

constexpr int64_t kBatch = 2, kSize = 8, kChannels = 16;
constexpr int64_t kPixels = kSize * kSize, kRows = kBatch * kPixels, kN = kRows * kChannels;

struct Inputs {
  Array<float> values{drawn<float>(kN, 1, std::normal_distribution<float>())};
  Array<float> weights{drawn<float>(kChannels * kChannels, 2, std::normal_distribution<float>())};
  Array<float> multiplier{drawn<float>(kChannels, 3, std::uniform_real_distribution<float>(1e-3f, 1e-2f))};
  Array<float> scale{0.02f};
  Array<int32_t> middle{drawn<int32_t>(kChannels, 4, std::uniform_int_distribution<int32_t>(-100, 100))};
  Array<int32_t> zero{7};
  Array<int16_t> table{drawn<int16_t>(256, 5, std::uniform_int_distribution<int>(0, 255))};
  Array<uint8_t> other{drawn_codes<uint8_t>(kN, 6)};
};

struct Outputs {
  Outputs()
      : codes(kN),
        mask(kN / 8),
        live(kN),
        frozen(kN),
        added(kN),
        spread(kN),
        product(kN),
        scaled(kN),
        positive(kN),
        mapped(kN),
        pooled(kN / 4),
        averaged(kN / 4),
        global(kBatch * kChannels),
        weights(kChannels * kChannels),
        kept(kN),
        kept_alone(kN),
        winner(kN / 4),
        acc(kN),
        deep_acc(kBatch),
        depthwise(kN),
        grouped_acc(kN),
        min(kChannels),
        max(kChannels),
        global_acc(kBatch * kChannels),
        real(kN),
        logits(kN),
        dx(kN),
        masked(kN),
        pooled_dx(kN),
        sums(4 * kChannels),
        scales(3),
        scratch(1 << 20) {}

  /// Runs every function once.
  void run(const Inputs& in, cudaStream_t stream) const {
    const DeviceRange range{0, 255, in.zero.data()};
    const BinaryParams params{in.scale.data(), in.scale.data(), in.scale.data(), in.zero.data(), in.zero.data(), range};
    const float *g = in.values.data(), *multiplier = in.multiplier.data(), *scale = in.scale.data();
    const int32_t *middle = in.middle.data(), *zero = in.zero.data();
    const KeptAccumulators compacted{.compact = kept.data(), .middle = middle, .step = multiplier};
    encode(g, kN, scale, range, codes.data(), mask.data(), stream);
    encode_per_channel(in.weights.data(), kChannels, kChannels, multiplier, -127, 127, weights.data(), stream);
    dequantize(codes.data(), kN, scale, zero, real.data(), stream);
    const ConvGeometry dense{.batch = kBatch, .in_h = kSize, .in_w = kSize, .in_c = kChannels, .out_c = kChannels};
    convolve(dense, codes.data(), zero, weights.data(), acc.data(), stream);
    const ConvGeometry deep{.batch = kBatch, .in_c = kPixels * kChannels, .out_c = 1};  // its depth in several parts
    convolve(deep, codes.data(), zero, reinterpret_cast<const int8_t*>(in.other.data()), deep_acc.data(), stream);
    ConvGeometry grouped = dense;
    grouped.groups = kChannels;
    convolve(grouped, codes.data(), zero, weights.data(), depthwise.data(), stream);
    grouped.groups = 2;
    convolve(grouped, codes.data(), zero, weights.data(), grouped_acc.data(), stream);
    channel_statistics(acc.data(), kRows, kChannels, {sums.data(), sums.data() + kChannels, min.data(), max.data()},
                       scratch.data(), stream);
    requantize_affine(acc.data(), kRows, kChannels, multiplier, multiplier, range, live.data(), mask.data(), true,
                      {middle, multiplier, kept.data()}, stream);
    requantize(acc.data(), kRows, kChannels, middle, multiplier, range, frozen.data(), nullptr, true, stream);
    dequantize_accumulators(acc.data(), kRows, kChannels, middle, multiplier, logits.data(), stream);
    compact(acc.data(), kRows, kChannels, {middle, multiplier, kept_alone.data()}, stream);
    const ScaleGradient of_scale{live.data(), multiplier, multiplier, zero, scales.data()};
    reduce_gradient(g, mask.data(), compacted, kRows, kChannels, sums.data() + 2 * kChannels,
                    sums.data() + 3 * kChannels, &of_scale, scratch.data(), stream);
    batch_norm_gradient(g, mask.data(), compacted, kRows, kChannels, multiplier, multiplier, multiplier, dx.data(),
                        stream);
    mask_gradient(g, mask.data(), kN, masked.data(), stream);
    encode_scale_gradient(g, codes.data(), mask.data(), g, scale, zero, kN, scales.data() + 1, scratch.data(), stream);
    add(codes.data(), in.other.data(), kN, params, added.data(), nullptr, false, stream);
    add_scale_gradient(g, codes.data(), in.other.data(), added.data(), nullptr, kN, params, scales.data() + 2,
                       scratch.data(), stream);
    add_broadcast(codes.data(), false, in.other.data(), kBatch, kPixels, kChannels, params, spread.data(), stream);
    mul(codes.data(), in.other.data(), kN, params, product.data(), stream);
    mul_broadcast(codes.data(), in.other.data(), kBatch, kPixels, kChannels, params, scaled.data(), stream);
    relu(codes.data(), kN, zero, positive.data(), nullptr, stream);
    lookup(codes.data(), kN, in.table.data(), mapped.data(), stream);
    PoolGeometry pool;
    pool.batch = kBatch, pool.in_h = pool.in_w = kSize, pool.channels = kChannels;
    pool.kernel_h = pool.kernel_w = 2, pool.stride_h = pool.stride_w = 2;
    max_pool(pool, codes.data(), pooled.data(), winner.data(), stream);
    max_pool_gradient(pool, g, winner.data(), pooled_dx.data(), stream);
    average_pool(pool, true, codes.data(), scale, zero, scale, range, averaged.data(), nullptr, stream);
    global_average_sums(codes.data(), kBatch, kPixels, kChannels, zero, global_acc.data(), stream);
    global_average_codes(global_acc.data(), kBatch, kPixels, kChannels, scale, scale, range, global.data(), nullptr,
                         stream);
  }
  static constexpr size_t kFunctions = 29;

  void expect_equal_to(const Outputs& other) const {
    const auto all = [](const Outputs& o) {
      return std::tie(o.codes, o.mask, o.weights, o.real, o.acc, o.deep_acc, o.depthwise, o.grouped_acc, o.sums, o.min,
                      o.max, o.live, o.frozen, o.kept, o.kept_alone, o.logits, o.dx, o.masked, o.scales, o.added,
                      o.spread, o.product, o.scaled, o.positive, o.mapped, o.pooled, o.winner, o.pooled_dx, o.averaged,
                      o.global, o.global_acc);
    };
    compare(all(*this), all(other), std::make_index_sequence<std::tuple_size_v<decltype(all(*this))>>());
  }

  Array<uint8_t> codes, mask, live, frozen, added, spread;
  Array<uint8_t> product, scaled, positive, mapped;
  Array<uint8_t> pooled, averaged, global;
  Array<int8_t> weights;
  Array<int16_t> kept, kept_alone;
  Array<uint16_t> winner;
  Array<int32_t> acc, deep_acc, depthwise, grouped_acc, min;
  Array<int32_t> max, global_acc;
  Array<float> real, logits, dx, masked, pooled_dx;
  Array<double> sums, scales;
  Array<char> scratch;

 private:
  template <class Arrays, size_t... kIndex>
  static void compare(const Arrays& a, const Arrays& b, std::index_sequence<kIndex...>) {
    (expect_equal(std::get<kIndex>(a).host(), std::get<kIndex>(b).host()), ...);
  }
};

TEST_F(CudaStream, AGraphCapturesEveryFunction) {
  const Inputs inputs;
  const Outputs direct, captured;
  direct.run(inputs, nullptr);
  check(cudaDeviceSynchronize());

  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  size_t nodes = 0;
  check(cudaStreamCreate(&stream));  // a blocking one: while it captures, work in the default stream is refused
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  captured.run(inputs, stream);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT_GE(nodes, Outputs::kFunctions);
  check(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 2; ++i) check(cudaGraphLaunch(executable, stream));
  check(cudaStreamSynchronize(stream));
  captured.expect_equal_to(direct);
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace qat::ops::cuda
