#include <algorithm>

#include "core/ops/cuda/block.cuh"
#include "core/ops/cuda/kept.cuh"
#include "core/ops/cuda/last_block.cuh"
#include "core/ops/cuda/reduce_gradient.h"

namespace qat::ops::cuda {
namespace {

/// What an H100 runs at once: two blocks a multiprocessor.
constexpr int64_t kBlocks = 264;
/// Rows that a thread reads at once; their sums of a channel are made in float.
constexpr int kRows = 4;
/// Eights of channels that lie side by side in a block: 128 bytes of a gradient.
constexpr int64_t kLanes = 4;
/// Threads of a block that join the sums of one channel of each lane, of all lines.
constexpr int kJoiners = 16;

/// A block sums a share of the rows of a group of channels: a thread every lines-th row of eight channels.
struct Shares {
  Shares(int64_t rows, int64_t channels) {
    const int64_t eights = std::max<int64_t>(divide_up(channels, kEight), 1);
    lanes = static_cast<int>(eights < 3 ? eights : kLanes);
    lines = kThreads / lanes;
    groups = divide_up(eights, lanes);
    const int64_t wanted = std::min(kBlocks / groups, divide_up(rows, int64_t{lines} * kRows));
    share_rows = divide_up(divide_up(rows, std::max<int64_t>(wanted, 1)), lines) * lines;
    shares = rows == 0 ? 1 : divide_up(rows, share_rows);
  }
  int lanes, lines;  // powers of two
  int64_t groups, shares, share_rows;
};

/// A share's sums of a channel.
struct alignas(16) Totals {
  __device__ void join(const Totals& other) {
    g += other.g;
    product += other.product;
  }
  double g, product;
};

struct Partial {
  Partial(const Shares& shares, int64_t channels, const ReduceScratch& scratch)
      : totals(static_cast<Totals*>(scratch.bytes)),
        errors(reinterpret_cast<double*>(totals + shares.shares * channels)),
        group_errors(errors + shares.groups * shares.shares),
        arrived(scratch.arrived) {}
  Totals* totals;        // [shares][channels]
  double* errors;        // [groups][shares]: of g * code
  double* group_errors;  // [groups]: of a scale's gradient
  int32_t* arrived;      // [groups + 1]
};

/// Eight channels of a row.
template <Keeping kKeeping>
struct Row {
  using Kept = std::conditional_t<kKeeping == Keeping::kExact, int32_t, int16_t>;
  Eight<float> g;
  Eight<Kept> kept;
  Eight<uint8_t> codes;
  unsigned inside;
};

/// A thread's sums of eight channels, and of g * code of all of them.
template <Keeping kKeeping, bool kScale>
struct Sums {
  /// Those of g; with kept accumulators, those of the products behind them.
  static constexpr int kCount = kKeeping == Keeping::kNothing ? kEight : 2 * kEight;

  __device__ void add(const Row<kKeeping> (&rows)[kRows], int32_t zero_point) {
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      float g_group = 0.0f, product_group = 0.0f;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float g = (rows[r].inside >> k) & 1 ? rows[r].g.at[k] : 0.0f;
        if constexpr (kKeeping == Keeping::kExact) {
          const double exact = g;
          at[k] += exact;
          const double a = static_cast<float>(rows[r].kept.at[k]);
          at[kEight + k] = fma(exact, a, at[kEight + k]);  // the product is exact
        } else {
          g_group += g;
          if constexpr (kKeeping == Keeping::kCompact) {
            product_group = fmaf(g, static_cast<float>(rows[r].kept.at[k]), product_group);
          }
        }
      }
      if constexpr (kKeeping != Keeping::kExact) at[k] += g_group;
      if constexpr (kKeeping == Keeping::kCompact) at[kEight + k] += product_group;
    }
    if constexpr (kScale) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) add_error(rows[r], zero_point);
    }
  }

  __device__ void add_error(const Row<kKeeping>& row, int32_t zero_point) {
    float group = 0.0f;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const auto code = static_cast<float>(row.codes.at[k] - zero_point);
      if constexpr (kKeeping == Keeping::kExact) {
        error = fma(static_cast<double>(row.g.at[k]), static_cast<double>(code), error);
      } else {
        group = fmaf(row.g.at[k], code, group);
      }
    }
    error += group;
  }

  double at[kCount] = {};
  double error = 0.0;
};

/// The rows of a layer's gradient. kWhole: eights are whole and aligned.
template <Keeping kKeeping, bool kScale, bool kWhole>
struct Reader {
  /// Rows from `end` on are zeros: a row before them is read again, so that no load waits for a branch.
  __device__ Row<kKeeping> read(int64_t row, int64_t end) const {
    const int64_t begin = (row < end ? row : end - 1) * layer.channels + first;
    const Part part{begin, kWhole ? kEight : count, kWhole};
    Row<kKeeping> result = {};
    result.g = load(layer.g, part);
    if constexpr (kKeeping == Keeping::kCompact) result.kept = load(layer.kept.compact, part);
    if constexpr (kKeeping == Keeping::kExact) result.kept = load(layer.kept.exact, part);
    if constexpr (kScale) result.codes = load(codes, part);
    result.inside = inside.eight(begin, kWhole ? begin : begin + count - 1);
    if (row >= end) result.g = {};
    return result;
  }
  const LayerGradient& layer;
  const uint8_t* codes;
  MaskBits inside;
  int64_t first;  // channel
  int count;
};

/// Results of a channel.
__device__ void finish(int64_t c, double s1, double s2, double per_row, const LayerFactors& by,
                       const LayerGradients& to) {
  if (to.s1 != nullptr) to.s1[c] = s1;
  if (to.s2 != nullptr) to.s2[c] = s2;
  if (to.dbeta != nullptr) to.dbeta[c] = static_cast<float>(s1);
  if (to.weight_factor != nullptr) {
    const double through = by.weight_factor == nullptr ? 1.0 : by.weight_factor[c];
    to.weight_factor[c] = static_cast<float>(*by.scale_x * through) / by.scale_ran[c];
  }
  if (by.p == nullptr) {
    if (to.dbias != nullptr) to.dbias[c] = static_cast<float>(s1 * by.k[c]);
    return;
  }
  const double p = by.p[c], q = by.q[c], gain = by.gain[c], dgamma = p * s2 + q * s1;
  const bool constant = by.running_statistics;
  if (to.a != nullptr) to.a[c] = static_cast<float>(gain);
  if (to.b != nullptr) to.b[c] = constant ? 0.0f : static_cast<float>(-gain * p * dgamma * per_row);
  if (to.c != nullptr) to.c[c] = constant ? 0.0f : static_cast<float>(-gain * (s1 + q * dgamma) * per_row);
  if (to.dgamma != nullptr) to.dgamma[c] = static_cast<float>(dgamma);
  if (to.dbias != nullptr) to.dbias[c] = static_cast<float>(s1 * ((constant ? 1.0 : 0.0) * gain));
}

template <Keeping kKeeping, bool kScale, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2)
    reduce(LayerGradient layer, Shares shares, double per_row, LayerFactors factors, LayerGradients gradients,
           ScaleGradient scale, Partial partial) {
  await_previous();
  using Summed = Sums<kKeeping, kScale>;
  __shared__ double staged[Summed::kCount][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % shares.lanes, line = thread / shares.lanes;
  const int width = shares.lanes * kEight;
  const int64_t group = blockIdx.x, share = blockIdx.y, channels = layer.channels;
  const int64_t first = group * width + lane * kEight, begin = share * shares.share_rows;
  const int64_t end = begin + shares.share_rows < layer.rows ? begin + shares.share_rows : layer.rows;

  Summed sums;
  if (first < channels) {
    const int count = channels - first < kEight ? static_cast<int>(channels - first) : kEight;
    const Reader<kKeeping, kScale, kWhole> reader{layer, scale.codes, MaskBits(layer.inside, layer.g), first, count};
    const int32_t zero_point = kScale ? *scale.zero_point : 0;
    for (int64_t row = begin + line; row < end; row += int64_t{kRows} * shares.lines) {
      Row<kKeeping> rows[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) rows[r] = reader.read(row + int64_t{r} * shares.lines, end);
      sums.add(rows, zero_point);
    }
  }

  // The share's sums: kJoiners threads for each element of a thread's.
#pragma unroll
  for (int k = 0; k < Summed::kCount; ++k) staged[k][thread] = sums.at[k];
  __syncthreads();
  const int sum = thread / kJoiners, joiner = thread % kJoiners;
  if (sum < Summed::kCount) {
    double total = 0.0;
#pragma unroll
    for (int i = 0; i < kThreads / kJoiners; ++i) total += staged[sum][i * kJoiners + joiner];
    for (int next = shares.lanes; next < kJoiners; next *= 2) total += __shfl_xor_sync(0xffffffff, total, next);
    const int64_t c = group * width + joiner * kEight + sum % kEight;
    if (joiner < shares.lanes && c < channels) {
      Totals& to = partial.totals[share * channels + c];
      (sum < kEight ? to.g : to.product) = total;
    }
  }
  if constexpr (kScale) {
    const Sum error = joined<kThreads>(Sum{sums.error});
    if (thread == 0) partial.errors[group * shares.shares + share] = error.value;
  }
  if (!is_last_block(partial.arrived + group, static_cast<int>(shares.shares))) return;

  // All shares' sums: a thread a channel, in as many parts as there are threads.
  const int64_t c = group * width + thread % width;
  const int parts = kThreads / width;
  Totals total{0.0, 0.0};
  if (c < channels) {
#pragma unroll 8
    for (int64_t s = thread / width; s < shares.shares; s += parts) total.join(partial.totals[s * channels + c]);
  }
  staged[0][thread] = total.g;
  staged[1][thread] = total.product;
  __syncthreads();
  double error = 0.0;
  if (thread < width && c < channels) {
    for (int k = 1; k < parts; ++k) total.join({staged[0][k * width + thread], staged[1][k * width + thread]});
    double product = kKeeping == Keeping::kNothing ? 0.0 : total.product;
    if constexpr (kKeeping == Keeping::kCompact) {
      product = layer.kept.middle[c] * total.g + static_cast<double>(layer.kept.step[c]) * total.product;
    }
    finish(c, total.g, product, per_row, factors, gradients);
    if constexpr (kScale) {
      const double offset = scale.offset == nullptr ? 0.0 : scale.offset[c];
      error = -(scale.multiplier[c] * product + offset * total.g);
    }
  }
  if constexpr (kScale) {
    for (int64_t s = thread; s < shares.shares; s += kThreads) error += partial.errors[group * shares.shares + s];
    const Sum of_group = joined<kThreads>(Sum{error});
    if (thread == 0) partial.group_errors[group] = of_group.value;
    if (!is_last_block(partial.arrived + shares.groups, static_cast<int>(shares.groups))) return;
    double mine = 0.0;
    for (int64_t i = thread; i < shares.groups; i += kThreads) mine += partial.group_errors[i];
    const Sum all = joined<kThreads>(Sum{mine});
    if (thread == 0) *scale.gradient = static_cast<float>(all.value * scale.factor);
  }
}

}  // namespace

size_t reduce_gradient_scratch(int64_t rows, int64_t channels) {
  const Shares s(rows, channels);
  return static_cast<size_t>(s.shares * channels) * sizeof(Totals) +
         static_cast<size_t>((s.shares + 1) * s.groups) * sizeof(double);
}

int64_t reduce_gradient_counters(int64_t channels) { return Shares(0, channels).groups + 1; }

void reduce_gradient(const LayerGradient& layer, const LayerFactors& factors, const LayerGradients& gradients,
                     const ScaleGradient& scale, const ReduceScratch& scratch, cudaStream_t stream) {
  constexpr const char* kName = "reduce_gradient";
  const LayerGradients& to = gradients;
  const bool of_batch = to.b != nullptr || to.c != nullptr, scales = scale.gradient != nullptr;
  const bool products = to.s2 != nullptr || of_batch || to.dgamma != nullptr || scales;
  const bool sums = products || to.s1 != nullptr || to.dbeta != nullptr || to.dbias != nullptr;
  const bool keeps = layer.kept.compact != nullptr || layer.kept.exact != nullptr;
  require_consistent(kName, layer.kept);
  require(layer.rows >= 0 && layer.channels >= 0 && layer.channels <= INT32_MAX, kName,
          "rows must not be negative, the number of channels must be in [0, 2^31)");
  require(!products || keeps, kName, "sums of products, and what is made of them, need the kept accumulators");
  require(!of_batch || layer.rows > 0, kName, "no rows have no gradient");
  const bool live = factors.p != nullptr;
  require((factors.q != nullptr) == live && (factors.gain != nullptr) == live, kName,
          "a live batch norm has p, q and gain, all or none");
  require(live || (to.a == nullptr && !of_batch && to.dgamma == nullptr), kName,
          "a folded layer has no batch norm's gradients");
  require(live || to.dbias == nullptr || factors.k != nullptr, kName, "a folded layer's bias has a gradient times k");
  require(to.weight_factor == nullptr || (factors.scale_x != nullptr && factors.scale_ran != nullptr), kName,
          "factors of the weight's gradient need the scales of input and weight");
  require(!scales || (scale.codes != nullptr && scale.multiplier != nullptr && scale.zero_point != nullptr) ||
              layer.rows * layer.channels == 0,
          kName, "a scale's gradient needs the codes, their multipliers and their zero point");
  if (layer.channels == 0 && !scales) return;
  require(scratch.arrived != nullptr, kName, "there is no counter");
  const bool whole = layer.channels % kEight == 0 &&
                     aligned(layer.g, layer.kept.compact, layer.kept.exact, scales ? scale.codes : nullptr);
  LayerGradient read = layer;
  if (!products) read.kept = {};
  if (!sums) read.rows = 0;
  const Shares shares(read.rows, layer.channels);
  const dim3 grid(static_cast<unsigned>(shares.groups), static_cast<unsigned>(shares.shares));
  const double per_row = 1.0 / static_cast<double>(layer.rows);
  const auto start = [&](auto kernel) {
    launch_kernel(kName, kernel, grid, kThreads, 0, stream, read, shares, per_row, factors, gradients, scale,
                  Partial(shares, layer.channels, scratch));
  };
  with_keeping(kName, read.kept, [&](auto keeping) {
    if constexpr (keeping != Keeping::kNothing) {
      if (scales) return start(whole ? reduce<keeping, true, true> : reduce<keeping, true, false>);
    }
    start(whole ? reduce<keeping, false, true> : reduce<keeping, false, false>);
  });
}

}  // namespace qat::ops::cuda
