// Every function only puts work into its stream: a graph captures them all, which a wait, an allocation or work in
// another stream would break, and the graph computes what direct calls do.
#include <tuple>
#include <utility>

#include "core/ops/cuda/batch_norm.h"
#include "core/ops/cuda/convolve.h"
#include "core/ops/cuda/convolve_gradient.h"
#include "core/ops/cuda/encode.h"
#include "core/ops/cuda/follow.h"
#include "core/ops/cuda/loss.h"
#include "core/ops/cuda/move.h"
#include "core/ops/cuda/optimizer.h"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/cuda/pool.h"
#include "core/ops/cuda/reduce_gradient.h"
#include "core/ops/cuda/requantize.h"
#include "core/ops/cuda/statistics.h"
#include "core/ops/cuda/table.h"
#include "core/ops/cuda/weight_codes.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaStream : public GpuTest {};

constexpr int64_t kBatch = 2, kSize = 8, kChannels = 16;
constexpr int64_t kPixels = kSize * kSize, kRows = kBatch * kPixels, kN = kRows * kChannels;
constexpr int64_t kChannelWords = kChannels * ChannelSums::kWords;

template <class... Arrays>
void compare(const std::tuple<Arrays...>& a, const std::tuple<Arrays...>& b) {
  [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
    (expect_equal(std::get<kIndex>(a).host(), std::get<kIndex>(b).host()), ...);
  }
  (std::index_sequence_for<Arrays...>());
}

struct Inputs {
  Array<float> values{drawn<float>(kN, 1, std::normal_distribution<float>())};
  Array<int8_t> weights{drawn_codes<int8_t>(kChannels * kChannels, 2)};
  Array<float> multiplier{drawn<float>(kChannels, 3, std::uniform_real_distribution<float>(1e-3f, 1e-2f))};
  Array<float> scale{0.02f};
  Array<int32_t> middle{drawn<int32_t>(kChannels, 4, std::uniform_int_distribution<int32_t>(-100, 100))};
  Array<int32_t> zero{7};
  Array<int16_t> table{drawn<int16_t>(256, 5, std::uniform_int_distribution<int>(0, 255))};
  Array<uint8_t> other{drawn_codes<uint8_t>(kN, 6)};
};

struct Outputs {
  explicit Outputs(const Inputs&)
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
        kept(kN),
        kept_alone(kN),
        winner(kN / 4),
        acc(kN),
        deep_acc(kBatch),
        depthwise(kN),
        grouped_acc(kN),
        statistics(3 * kChannelWords),
        global_acc(kBatch * kChannels),
        real(kN),
        logits(kN),
        dx(kN),
        masked(kN),
        pooled_dx(kN),
        scales(3),
        sums(4 * kChannels),
        scratch(1 << 20) {}

  /// Runs every function once.
  void run(const Inputs& in, cudaStream_t stream) const {
    const DeviceRange range{0, 255, in.zero.data()};
    const BinaryParams params{in.scale.data(), in.scale.data(), in.scale.data(), in.zero.data(), in.zero.data(), range};
    const float *g = in.values.data(), *multiplier = in.multiplier.data(), *scale = in.scale.data();
    const int32_t *middle = in.middle.data(), *zero = in.zero.data();
    const KeptAccumulators compacted{.compact = kept.data(), .middle = middle, .step = multiplier};
    encode(g, kN, scale, range, codes.data(), mask.data(), stream);
    dequantize(codes.data(), kN, scale, zero, real.data(), stream);
    const ConvGeometry dense{.batch = kBatch, .in_h = kSize, .in_w = kSize, .in_c = kChannels, .out_c = kChannels};
    check(cudaMemsetAsync(statistics.data(), 0, 3 * kChannelWords * sizeof(unsigned long long), stream));
    convolve(dense, codes.data(), zero, in.weights.data(), acc.data(), {statistics.data(), kChannels}, stream);
    const ConvGeometry deep{.batch = kBatch, .in_c = kPixels * kChannels, .out_c = 1};  // its depth in several parts
    convolve(deep, codes.data(), zero, reinterpret_cast<const int8_t*>(in.other.data()), deep_acc.data(),
             {statistics.data() + kChannelWords, 1}, stream);
    ConvGeometry grouped = dense;
    grouped.groups = kChannels;
    convolve(grouped, codes.data(), zero, in.weights.data(), depthwise.data(),
             {statistics.data() + 2 * kChannelWords, kChannels}, stream);
    grouped.groups = 2;
    convolve(grouped, codes.data(), zero, in.weights.data(), grouped_acc.data(), {}, stream);
    channel_statistics(acc.data(), kRows, {statistics.data(), kChannels}, stream);
    requantize_affine(acc.data(), kRows, kChannels, multiplier, multiplier, range, live.data(), mask.data(), true,
                      {middle, multiplier, kept.data()}, stream);
    requantize(acc.data(), kRows, kChannels, middle, multiplier, range, frozen.data(), nullptr, true, stream);
    dequantize_accumulators(acc.data(), kRows, kChannels, middle, multiplier, logits.data(), stream);
    compact(acc.data(), kRows, kChannels, {middle, multiplier, kept_alone.data()}, stream);
    const ScaleGradient of_scale{live.data(), multiplier, multiplier, zero, 1.0, scales.data()};
    reduce_gradient({kRows, kChannels, g, mask.data(), compacted}, {},
                    {.s1 = sums.data(), .s2 = sums.data() + kChannels}, of_scale, {scratch.data(), arrived.data()},
                    stream);
    grouped.groups = kChannels;
    gradient_operand(grouped, GradientPrecision::kFloat,
                     {.g = g,
                      .inside = mask.data(),
                      .slope = multiplier,
                      .inner = multiplier,
                      .constant = multiplier,
                      .kept = compacted},
                     multiplier, dx.data(), stream);
    mask_gradient(g, mask.data(), kN, masked.data(), stream);
    encode_scale_gradient(g, codes.data(), mask.data(), g, scale, zero, kN, 0.5, scales.data() + 1, scratch.data(),
                          stream);
    add(codes.data(), in.other.data(), kN, params, added.data(), nullptr, false, stream);
    add_scale_gradient(g, codes.data(), in.other.data(), added.data(), nullptr, kN, params, 0.5, scales.data() + 2,
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
  static constexpr size_t kFunctions = 28;

  void expect_equal_to(const Outputs& other) const {
    const auto all = [](const Outputs& o) {
      return std::tie(o.codes, o.mask, o.real, o.acc, o.deep_acc, o.depthwise, o.grouped_acc, o.sums, o.statistics,
                      o.live, o.frozen, o.kept, o.kept_alone, o.logits, o.dx, o.masked, o.scales, o.added, o.spread,
                      o.product, o.scaled, o.positive, o.mapped, o.pooled, o.winner, o.pooled_dx, o.averaged, o.global,
                      o.global_acc);
    };
    compare(all(*this), all(other));
  }

  Array<uint8_t> codes, mask, live, frozen, added, spread;
  Array<uint8_t> product, scaled, positive, mapped;
  Array<uint8_t> pooled, averaged, global;
  Array<int16_t> kept, kept_alone;
  Array<uint16_t> winner;
  Array<int32_t> acc, deep_acc, depthwise, grouped_acc;
  Array<unsigned long long> statistics;
  Array<int32_t> global_acc;
  Array<int32_t> arrived{std::vector<int32_t>(static_cast<size_t>(reduce_gradient_counters(kChannels)))};
  Array<float> real, logits, dx, masked, pooled_dx, scales;
  Array<double> sums;
  Array<char> scratch;
};

/// Runs all functions of Outputs directly, and captured twice: each time they start from the same state.
template <class Outputs, class Inputs>
void expect_captured(const Inputs& inputs) {
  const Outputs direct(inputs), captured(inputs);
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

TEST_F(CudaStream, AGraphCapturesEveryFunction) { expect_captured<Outputs>(Inputs()); }

constexpr int64_t kDepth = 9 * kChannels, kWeights = kChannels * kDepth, kHalf = kWeights / 2, kClasses = 8;

/// Of what only training needs.
struct TrainingInputs {
  Array<float> values{drawn<float>(kN, 11, std::normal_distribution<float>())};
  Array<float> weights{drawn<float>(kWeights, 12, std::normal_distribution<float>())};
  Array<float> scales{drawn<float>(kChannels, 13, std::uniform_real_distribution<float>(1e-3f, 1e-2f))};
  Array<float> gamma{drawn<float>(kChannels, 14, std::uniform_real_distribution<float>(0.5f, 1.5f))};
  Array<float> share{0.75f};
  Array<double> gains{drawn<double>(kChannels, 15, std::uniform_real_distribution<double>(0.5, 1.5))};
  Array<double> corrections{0.1, 0.2};
  Array<int32_t> acc{drawn<int32_t>(kN, 16, std::uniform_int_distribution<int32_t>(-9000, 9000))};
  Array<int32_t> zero{7};
  Array<int32_t> from{drawn<int32_t>(kChannels, 17, std::uniform_int_distribution<int32_t>(-1, kChannels - 1))};
  Array<int64_t> labels{drawn<int64_t>(kRows, 18, std::uniform_int_distribution<int64_t>(0, kClasses - 1))};
  Array<uint64_t> key{0x123456789abcdefu};
  Array<uint8_t> codes{drawn_codes<uint8_t>(kN, 19)};
  Array<uint8_t> others{drawn_codes<uint8_t>(kN, 20)};
  Array<uint8_t> mask{drawn_codes<uint8_t>(kN / 8, 21)};
  Array<int8_t> weight_codes{drawn_codes<int8_t>(kWeights, 22)};
};

/// The n-th one of arrays of `size` elements.
template <class T>
T* nth(const Array<T>& all, int64_t n, int64_t size = kChannels) {
  return all.data() + n * size;
}

struct TrainingOutputs {
  explicit TrainingOutputs(const TrainingInputs& in)
      : dx(2 * kN),
        dw(4 * kWeights),
        parameters(kWeights),
        moments(3 * kHalf),
        running(2 * kChannels),
        numbers(20 * kChannels),
        real(10 * kN),
        slopes(512),
        scale(2),
        sums(2 * kChannels),
        live(4 * kChannels),
        folded(kChannels),
        range(2),
        ends(12),
        of_scales(5),
        norm(1),
        statistics(kChannelWords),
        bias(kChannels),
        middle(kChannels),
        acc(kBatch * kChannels),
        failed(1),
        zero_point(1),
        batches(1),
        codes(4 * kN),
        table(256),
        kept(kN / 8),
        weights(kWeights),
        totals(sizeof(LossTotals)),
        scratch(1 << 22),
        operand(1 << 16),
        updates(std::vector<ParameterUpdate>{
            {.parameter = parameters.data(), .gradient = dw.data(), .first = moments.data(), .n = kHalf},
            {.parameter = parameters.data() + kHalf,
             .gradient = dw.data() + kHalf,
             .first = nth(moments, 1, kHalf),
             .second = nth(moments, 2, kHalf),
             .n = kHalf}}),
        pieces(std::vector<UpdatePiece>{{0, 0}}),
        encoded(kWeights),
        listed({EncodedWeight{.x = in.weights.data(),
                              .codes = encoded.data(),
                              .scale = nth(numbers, 18),
                              .depth = kDepth,
                              .channels = kChannels,
                              .scales = kChannels,
                              .follows = true}}) {}

  /// Runs every function once, from the same state each time.
  void run(const TrainingInputs& in, cudaStream_t stream) const {
    check(cudaMemsetAsync(parameters.data(), 0, kWeights * sizeof(float), stream));
    check(cudaMemsetAsync(moments.data(), 0, 3 * kHalf * sizeof(float), stream));
    check(cudaMemsetAsync(running.data(), 0, 2 * kChannels * sizeof(float), stream));
    check(cudaMemsetAsync(range.data(), 0, 2 * sizeof(double), stream));
    check(cudaMemsetAsync(batches.data(), 0, sizeof(int64_t), stream));
    check(cudaMemsetAsync(totals.data(), 0, sizeof(LossTotals), stream));
    check(cudaMemsetAsync(failed.data(), 0, sizeof(int32_t), stream));
    values_range(in.values.data(), kN, ends.data(), scratch.data(), stream);
    const FollowedRange followed{.affine = true,
                                 .range = range.data(),
                                 .batches = batches.data(),
                                 .scale = scale.data(),
                                 .zero_point = zero_point.data()};
    follow_range(ends.data(), false, followed, failed.data(), stream);
    run_layers(in, stream);
    run_convolutions(in, stream);
    run_updates(in, stream);
    run_operators(in, stream);
    run_pools(in, stream);
  }
  static constexpr size_t kFunctions = 45;

  void expect_equal_to(const TrainingOutputs& other) const {
    const auto all = [](const TrainingOutputs& o) {
      return std::tie(o.dx, o.dw, o.parameters, o.moments, o.running, o.numbers, o.real, o.slopes, o.scale, o.sums,
                      o.live, o.folded, o.range, o.ends, o.of_scales, o.norm, o.statistics, o.bias, o.middle, o.acc,
                      o.zero_point, o.batches, o.codes, o.table, o.kept, o.weights, o.encoded, o.totals);
    };
    compare(all(*this), all(other));
    for (const TrainingOutputs* outputs : {this, &other}) EXPECT_EQ(outputs->failed.host()[0], 0);
  }

  void run_layers(const TrainingInputs& in, cudaStream_t stream) const {
    const float *scale_x = in.share.data(), *scale_w = in.scales.data();
    const ChannelSums of_acc{statistics.data(), kChannels};
    check(cudaMemsetAsync(statistics.data(), 0, kChannelWords * sizeof(unsigned long long), stream));
    channel_statistics(in.acc.data(), kRows, of_acc, stream);
    const BatchNorm norm{in.gamma.data(), in.gamma.data(), running.data(), running.data() + kChannels};
    const OutputScale output{scale.data(), nullptr, false};
    LiveLayer layer{.rows = kRows, .channels = kChannels, .sums = of_acc};
    layer.scale_x = scale_x, layer.scale_w = scale_w, layer.norm = norm;
    live_layer(
        layer, output,
        {nth(live, 0), nth(live, 1), nth(live, 2), nth(live, 3), nth(numbers, 0), nth(numbers, 1), nth(numbers, 2)},
        {middle.data(), nth(numbers, 3), nth(numbers, 4)}, failed.data(), stream);
    FoldedLayer frozen{.channels = kChannels, .depth = kDepth, .codes = in.weight_codes.data()};
    frozen.scale_x = scale_x, frozen.scale_w = scale_w, frozen.norm = norm;
    const FoldedNumbers of_frozen{weights.data(), nth(numbers, 5), bias.data(), folded.data()};
    fold(frozen, of_frozen, failed.data(), stream);
    folded_multipliers(kChannels, of_acc, scale_x, of_frozen, output, nth(numbers, 6), nth(numbers, 7), {},
                       failed.data(), stream);
    const LayerFactors factors{.p = nth(live, 0),
                               .q = nth(live, 1),
                               .gain = nth(live, 2),
                               .scale_x = scale_x,
                               .weight_factor = in.gains.data(),
                               .scale_ran = scale_w};
    const LayerGradients gradients{.a = nth(numbers, 8),
                                   .b = nth(numbers, 9),
                                   .c = nth(numbers, 10),
                                   .dgamma = nth(numbers, 11),
                                   .dbeta = nth(numbers, 12),
                                   .dbias = nth(numbers, 13),
                                   .weight_factor = nth(numbers, 14)};
    reduce_gradient({kRows, kChannels, in.values.data(), in.mask.data(), {.exact = in.acc.data()}}, factors, gradients,
                    {}, {scratch.data(), arrived.data()}, stream);
    scale_gradient(in.gains.data(), 0.5, nth(numbers, 15), kChannels, stream);
    running_gain(norm, kChannels, nth(sums, 0), stream);
  }

  void run_convolutions(const TrainingInputs& in, cudaStream_t stream) const {
    ConvGeometry g{.batch = kBatch, .in_h = kSize, .in_w = kSize, .in_c = kChannels, .out_c = kChannels};
    g.kernel_h = g.kernel_w = 3, g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = 1;
    for (const int64_t groups : {int64_t{1}, kChannels}) {
      g.groups = groups;
      const int64_t place = groups == 1 ? 0 : 1;
      constexpr GradientPrecision kPrecision = GradientPrecision::kBfloat16;
      gradient_operand(g, kPrecision, {.g = in.values.data()}, in.scales.data(), operand.data(), stream);
      input_gradient(g, kPrecision, operand.data(), in.weight_codes.data(), false, nth(dx, place, kN), scratch.data(),
                     stream);
      weight_gradient(g, kPrecision, in.codes.data(), in.zero.data(), operand.data(), in.scales.data(),
                      nth(dw, place, kWeights), scratch.data(), stream);
    }
  }

  void run_updates(const TrainingInputs& in, cudaStream_t stream) const {
    const UpdateList first{updates.data(), pieces.data(), 1, 1}, second{updates.data() + 1, pieces.data(), 1, 1};
    const GradientClipping clipping{.max_norm = 1.0, .norm = norm.data()};
    const float* rates = in.share.data();
    measure_gradients(first, 0, norm.data(), failed.data(), scratch.data(), stream);
    sgd(first, {0.9f, true}, clipping, rates, failed.data(), stream);
    adam(second, {}, clipping, rates, in.corrections.data(), failed.data(), stream);
    const float* w = in.weights.data();
    largest_scales(w, kChannels, kDepth, 127, nth(numbers, 16), failed.data(), stream);
    encode_weights_gradient(w, w, kChannels, kDepth, in.scales.data(), -127, 127, false, nth(dw, 2, kWeights),
                            nth(sums, 1), stream);
    encode_weights(listed.data(), 1, kChannels, failed.data(), stream);
    scale_rows(w, kChannels, kDepth, in.gains.data(), nth(dw, 3, kWeights), stream);
    cross_entropy(in.values.data(), kRows, kClasses, {in.labels.data(), in.labels.data(), in.share.data(), 0.1},
                  nth(real, 0, kN), reinterpret_cast<LossTotals*>(totals.data()), failed.data(), scratch.data(),
                  stream);
  }

  void run_operators(const TrainingInputs& in, cudaStream_t stream) const {
    const float *g = in.values.data(), *s = in.share.data();
    const uint8_t *a = in.codes.data(), *b = in.others.data();
    const int32_t* zero = in.zero.data();
    const BinaryParams p{s, s, s, zero, zero, {0, 255, zero}};
    add_range(a, b, kN, p, ends.data() + 2, scratch.data(), stream);
    mul_range(a, b, kBatch, kPixels, kChannels, true, p, ends.data() + 4, scratch.data(), stream);
    mul_gradient(g, a, b, kBatch, kPixels, kChannels, false, p, nth(real, 1, kN), nth(real, 2, kN), a, of_scales.data(),
                 scratch.data(), stream);
    mul_gradient(g, a, b, kBatch, kPixels, kChannels, true, p, nth(real, 3, kN), nth(numbers, 18), a,
                 of_scales.data() + 1, scratch.data(), stream);
    dropout(a, kN, 1, 0.5, in.key.data(), s, zero, nth(codes, 0, kN), kept.data(), scale.data() + 1, stream);
    dropout_gradient(g, kept.data(), kN, 0.5, nth(real, 4, kN), stream);
    add_values(g, kN, nth(real, 4, kN), stream);
    to_channels_first(a, kBatch, kPixels, kChannels, nth(codes, 1, kN), stream);
    to_channels_last(g, kBatch, kPixels, kChannels, nth(real, 5, kN), stream);
    gather_channels(a, kRows, kChannels, in.from.data(), kChannels, nth(codes, 2, kN), stream);
    gather_channels(g, kRows, kChannels, in.from.data(), kChannels, nth(real, 6, kN), stream);
    const TableParams hardswish{Function::kHardswish, 0, s, zero, s, {0, 255, zero}};
    auto* made = reinterpret_cast<Slopes*>(slopes.data());
    make_table(hardswish, table.data(), made, stream);
    table_range(a, kN, hardswish, ends.data() + 6, false, scratch.data(), stream);
    lookup_channels(a, kRows, kChannels, table.data(), nth(codes, 3, kN), kChannels, 0, stream);
    table_gradient(g, a, kRows, kChannels, kChannels, 0, made, nth(real, 7, kN), of_scales.data() + 2, false,
                   scratch.data(), stream);
  }

  void run_pools(const TrainingInputs& in, cudaStream_t stream) const {
    const float *g = in.values.data(), *s = in.share.data();
    const int32_t* zero = in.zero.data();
    const uint8_t *x = in.codes.data(), *mask = in.mask.data();
    const DeviceRange of_y{0, 255, zero};
    global_average_sums(x, kBatch, kPixels, kChannels, zero, acc.data(), stream);
    global_average_range(acc.data(), kBatch, kPixels, kChannels, s, ends.data() + 8, stream);
    global_average_scale_gradient(g, acc.data(), x, mask, kBatch, kPixels, kChannels, s, s, of_y, of_scales.data() + 3,
                                  stream);
    global_average_pool_gradient(g, mask, kBatch, kPixels, kChannels, nth(real, 8, kN), stream);
    PoolGeometry pool;
    pool.batch = kBatch, pool.in_h = pool.in_w = kSize, pool.channels = kChannels;
    pool.kernel_h = pool.kernel_w = 2, pool.stride_h = pool.stride_w = 2;
    average_range(pool, true, x, s, zero, ends.data() + 10, scratch.data(), stream);
    average_scale_gradient(pool, true, g, x, in.others.data(), mask, s, zero, s, of_y, of_scales.data() + 4,
                           scratch.data(), stream);
    average_pool_gradient(pool, true, g, mask, nth(real, 9, kN), stream);
  }

  Array<float> dx, dw, parameters, moments, running, numbers, real, slopes, scale;
  Array<double> sums, live, folded, range, ends, of_scales, norm;
  Array<unsigned long long> statistics;
  Array<int32_t> bias, middle, acc, failed, zero_point;
  Array<int32_t> arrived{std::vector<int32_t>(static_cast<size_t>(reduce_gradient_counters(kChannels)))};
  Array<int64_t> batches;
  Array<uint8_t> codes, table, kept;
  Array<int8_t> weights;
  Array<char> totals, scratch, operand;
  Array<ParameterUpdate> updates;
  Array<UpdatePiece> pieces;
  Array<int8_t> encoded;
  Array<EncodedWeight> listed;
};

TEST_F(CudaStream, AGraphCapturesEveryFunctionOfTraining) { expect_captured<TrainingOutputs>(TrainingInputs()); }

}  // namespace
}  // namespace qat::ops::cuda
