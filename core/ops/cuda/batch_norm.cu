#include "core/ops/cuda/batch_norm.h"
#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/follow.cuh"

namespace qat::ops::cuda {
namespace {

/// Of the one block that sees all channels, so that a range can follow between their numbers.
constexpr int64_t kMostThreads = 1024;

/// OutputScale without pointers to the CPU's memory.
struct Output {
  const float* scale;
  bool relu, follows;
  FollowedRange range;
};

/// The real value of a channel's accumulators: scale * acc + offset.
struct Real {
  double scale, offset;
};

/// ops::compact_numbers().
__device__ void write_compact(const CompactNumbers& compact, int64_t c, int32_t min, int32_t max) {
  constexpr double kLevels = 65000;
  const int64_t width = static_cast<int64_t>(max) - min;
  const bool whole = static_cast<double>(width) <= kLevels;
  compact.middle[c] = static_cast<int32_t>(min + width / 2);
  compact.gain[c] = whole ? 1.0f : static_cast<float>(kLevels / static_cast<double>(width));
  compact.step[c] = whole ? 1.0f : static_cast<float>(static_cast<double>(width) / kLevels);
}

/// All channels of a layer. layer.prepare(c, the sums) tells what its accumulators mean; then the range follows, and
/// layer.finish(c, the output's scale) makes the multiplier.
template <class Layer>
__global__ void __launch_bounds__(kMostThreads)
    run_layer(int64_t channels, Layer layer, ChannelSums sums, Output output, CompactNumbers compact, int32_t* failed) {
  await_previous();
  // Neighbours, so that the ends are joined in the order of the channels.
  const int64_t each = (channels + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * each;
  const int64_t end = begin + each < channels ? begin + each : channels;
  RangeEnds ends = RangeEnds::none();
  for (int64_t c = begin; c < end; ++c) {
    const IntegerSums s = sums.words == nullptr ? IntegerSums::none() : sums.at(c);
    const Real real = layer.prepare(c, s, failed);
    if (compact.middle != nullptr) write_compact(compact, c, s.min, s.max);
    if (!output.follows) continue;
    const double a = real.scale * s.min + real.offset, b = real.scale * s.max + real.offset;
    ends.join({a, a});
    ends.join({b, b});
  }
  if (output.follows) {
    ends = block_ends(ends);
    if (threadIdx.x == 0) follow(ends, output.relu, output.range, failed);
    __syncthreads();
  }
  const float scale = output.scale == nullptr ? 1.0f : *output.scale;
  for (int64_t c = begin; c < end; ++c) layer.finish(c, scale);
}

template <class Layer>
void launch_layer(const char* kernel, int64_t channels, const Layer& layer, const ChannelSums& sums,
                  const OutputScale& output, const CompactNumbers& compact, int32_t* failed, cudaStream_t stream) {
  require(channels >= 0, kernel, "the number of channels must not be negative");
  const bool follows = output.follow != nullptr, compacts = compact.middle != nullptr;
  require((compact.gain != nullptr) == compacts && (compact.step != nullptr) == compacts, kernel,
          "accumulators kept as int16 need a middle, a gain and a step, all or none");
  require(!(follows || compacts) || sums.words != nullptr, kernel,
          "no range follows, and no accumulators are kept as int16, without the channels' ranges");
  require(sums.words == nullptr || sums.channels == channels, kernel, "the sums are not of the layer's channels");
  if (follows) {
    require_followed(*output.follow, kernel);
    require(output.scale == output.follow->scale, kernel, "the range that follows is not that of the output's scale");
  }
  if (channels == 0) return;
  const int64_t threads = channels < kMostThreads ? divide_up(channels, 32) * 32 : kMostThreads;
  const Output on_device{output.scale, output.relu, follows, follows ? *output.follow : FollowedRange{}};
  launch_kernel(kernel, run_layer<Layer>, 1, static_cast<unsigned>(threads), 0, stream, channels, layer, sums,
                on_device, compact, failed);
}

struct LiveChannels {
  LiveLayer layer;
  LiveNumbers numbers;
  double unbiased;  // rows / (rows - 1)

  __device__ Real real(int64_t c) const {
    const float gamma = layer.norm.gamma[c];
    return {gamma * numbers.p[c], gamma * numbers.q[c] + layer.norm.beta[c]};
  }

  __device__ Real prepare(int64_t c, const IntegerSums& sums, int32_t* failed) const {
    const BatchNorm& norm = layer.norm;
    const auto rows = static_cast<double>(layer.rows);
    const float bias = layer.bias == nullptr ? 0.0f : layer.bias[c], scale_w = layer.scale_w[c];
    double s = static_cast<double>(*layer.scale_x) * scale_w;
    if (layer.weight_gain != nullptr) {
      const double weight_gain = layer.weight_gain[c];
      s /= weight_gain;
      numbers.weight_factor[c] = 1.0 / weight_gain;
      numbers.scale_ran[c] = scale_w / static_cast<float>(weight_gain);
    } else {
      numbers.weight_factor[c] = 1.0;
      numbers.scale_ran[c] = scale_w;
    }
    const double mean_acc = static_cast<double>(sums.sum) / rows;
    const double spread = sums.sum_squares() / rows - mean_acc * mean_acc;
    const double var_acc = 0.0 < spread ? spread : 0.0;
    const double mean = s * mean_acc + bias, var = s * s * var_acc;
    const float old_mean = norm.running_mean[c], old_var = norm.running_var[c];
    const double inverse = 1.0 / sqrt((layer.running_statistics ? old_var : var) + norm.eps);
    const double p = s * inverse;
    numbers.p[c] = p;
    numbers.q[c] = layer.running_statistics ? (bias - static_cast<double>(old_mean)) * inverse : -p * mean_acc;
    numbers.gain[c] = norm.gamma[c] * inverse;
    const auto new_mean = static_cast<float>((1.0 - norm.momentum) * old_mean + norm.momentum * mean);
    const auto new_var = static_cast<float>((1.0 - norm.momentum) * old_var + norm.momentum * var * unbiased);
    norm.running_mean[c] = new_mean;
    norm.running_var[c] = new_var;
    if (!(is_finite(mean) && is_finite(var) && is_finite(new_mean) && is_finite(new_var))) *failed = 1;
    return real(c);
  }

  __device__ void finish(int64_t c, float scale) const {
    const Real r = real(c);
    numbers.multiplier[c] = static_cast<float>(r.scale / scale);
    numbers.offset[c] = static_cast<float>(r.offset / scale);
  }
};

struct FoldedChannels {
  const float* scale_x;
  FoldedNumbers folded;
  float *multiplier, *offset;

  __device__ Real prepare(int64_t c, const IntegerSums&, int32_t*) const {
    const double scale = static_cast<double>(*scale_x) * folded.scale[c];
    return {scale, scale * folded.bias[c]};
  }

  __device__ void finish(int64_t c, float scale) const {
    const float m = *scale_x * folded.scale[c] / scale;
    multiplier[c] = m;
    if (offset != nullptr) offset[c] = m * static_cast<float>(folded.bias[c]);
  }
};

/// What fold() makes of a channel before its codes. ok: core/ops/fold.cpp would not throw.
struct Folding {
  double k, b, unraised;
  float scale, floor, bias_scale;
  bool flip, raise, ok;
};

__device__ Folding folding_of(const FoldedLayer& layer, int64_t c) {
  const auto larger = [](double a, double b) { return a < b ? b : a; };
  const float scale_x = *layer.scale_x, scale_w = layer.scale_w[c];
  Folding f = {};
  f.ok = scale_x > 0 && is_finite(scale_x) && scale_w > 0 && is_finite(scale_w);
  const auto checked = [&](const float* values) {
    const double v = values == nullptr ? 0.0 : values[c];
    f.ok = f.ok && is_finite(v);
    return v;
  };
  const double bias = checked(layer.bias);
  if (layer.norm.gamma == nullptr) {
    f.k = 1.0, f.b = bias;
  } else {
    const double gamma = checked(layer.norm.gamma), beta = checked(layer.norm.beta);
    const double mean = checked(layer.norm.running_mean), var = checked(layer.norm.running_var) + layer.norm.eps;
    f.ok = f.ok && var > 0.0;
    f.k = gamma / sqrt(var);
    f.b = beta + (bias - mean) * f.k;
  }
  const double s_x = scale_x;
  f.scale = layer.gain_in_codes ? scale_w : static_cast<float>(scale_w * fabs(f.k));
  f.flip = f.k < 0 && !layer.gain_in_codes;
  f.floor = static_cast<float>(larger(fabs(f.b) / (s_x * 0x1p30), 0x1p-100 / s_x));
  f.unraised = f.scale;
  f.raise = f.scale < f.floor;
  if (f.raise) f.scale = f.floor;
  f.bias_scale = static_cast<float>(s_x * f.scale);
  f.ok = f.ok && is_finite(f.bias_scale) && is_finite(f.scale) && f.bias_scale > 0;
  return f;
}

/// Codes that a thread takes at once where rows of them are aligned.
struct alignas(16) Sixteen {
  static constexpr int kCount = 16;
  int8_t at[kCount];
};

/// A block for each channel.
__global__ void __launch_bounds__(kThreads)
    fold_channels(FoldedLayer layer, FoldedNumbers numbers, bool aligned, int32_t* failed) {
  await_previous();
  const int64_t c = blockIdx.x;
  const Folding f = folding_of(layer, c);
  if (!f.ok) {
    if (threadIdx.x == 0) *failed = 1;
    return;
  }
  if (threadIdx.x == 0) {
    constexpr double kLeast = INT32_MIN, kMost = INT32_MAX;
    const double bias = rint(f.b / f.bias_scale);
    numbers.scale[c] = f.scale;
    numbers.bias[c] = static_cast<int32_t>(bias < kLeast ? kLeast : kMost < bias ? kMost : bias);
    numbers.k[c] = f.k;
  }
  const int8_t* from = layer.codes + c * layer.depth;
  int8_t* to = numbers.codes + c * layer.depth;
  const auto folded = [&](int8_t raw) {
    const int code = f.flip ? -raw : raw;
    if (code > 127) *failed = 1;
    return static_cast<int8_t>(f.raise ? static_cast<int>(rint(code * f.unraised / f.floor)) : code);
  };
  if (aligned) {
    for (int64_t i = threadIdx.x * Sixteen::kCount; i < layer.depth; i += kThreads * Sixteen::kCount) {
      Sixteen codes = *reinterpret_cast<const Sixteen*>(from + i);
#pragma unroll
      for (int k = 0; k < Sixteen::kCount; ++k) codes.at[k] = folded(codes.at[k]);
      *reinterpret_cast<Sixteen*>(to + i) = codes;
    }
  } else {
    for (int64_t i = threadIdx.x; i < layer.depth; i += kThreads) to[i] = folded(from[i]);
  }
}

template <class Body>
__global__ void __launch_bounds__(kThreads) run_channels(int64_t channels, Body body) {
  await_previous();
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c < channels) body(c);
}

/// Calls body(c) on the GPU for all channels.
template <class Body>
void for_channels(const char* kernel, int64_t channels, cudaStream_t stream, const Body& body) {
  if (channels == 0) return;
  const int64_t blocks = divide_up(channels, kThreads);
  require(channels > 0 && blocks <= INT32_MAX, kernel, "the number of channels must be in [0, 2^39)");
  launch_kernel(kernel, run_channels<Body>, static_cast<unsigned>(blocks), kThreads, 0, stream, channels, body);
}

bool is_whole(const BatchNorm& norm) {
  return norm.gamma != nullptr && norm.beta != nullptr && norm.running_mean != nullptr && norm.running_var != nullptr;
}

}  // namespace

void live_layer(const LiveLayer& layer, const OutputScale& output, const LiveNumbers& numbers,
                const CompactNumbers& compact, int32_t* failed, cudaStream_t stream) {
  require(layer.rows > 1, "live_layer", "batch norm needs more than one value per channel to train");
  require(layer.channels == 0 || layer.sums.words != nullptr, "live_layer", "batch norm needs the batch's sums");
  require(is_whole(layer.norm), "live_layer", "batch norm needs gamma, beta, running mean and running variance");
  const double unbiased = static_cast<double>(layer.rows) / static_cast<double>(layer.rows - 1);
  launch_layer("live_layer", layer.channels, LiveChannels{layer, numbers, unbiased}, layer.sums, output, compact,
               failed, stream);
}

void fold(const FoldedLayer& layer, const FoldedNumbers& numbers, int32_t* failed, cudaStream_t stream) {
  const BatchNorm& norm = layer.norm;
  require(layer.channels >= 0 && layer.channels <= INT32_MAX && layer.depth >= 0, "fold",
          "the number of channels must be in [0, 2^31), their depth not negative");
  require(is_whole(norm) || (norm.gamma == nullptr && norm.beta == nullptr && norm.running_mean == nullptr &&
                             norm.running_var == nullptr),
          "fold", "batch norm needs gamma, beta, running mean and running variance, all or none");
  require(norm.eps - norm.eps == 0, "fold", "expected a finite eps");
  require(layer.depth == 0 || layer.codes != numbers.codes || layer.channels == 0, "fold",
          "the folded codes must not replace the layer's own");
  if (layer.channels == 0) return;
  const bool whole = aligned(layer.codes, numbers.codes) && layer.depth % Sixteen::kCount == 0;
  launch_kernel("fold", fold_channels, static_cast<unsigned>(layer.channels), kThreads, 0, stream, layer, numbers,
                whole, failed);
}

void folded_multipliers(int64_t channels, const ChannelSums& sums, const float* scale_x, const FoldedNumbers& folded,
                        const OutputScale& output, float* multiplier, float* offset, const CompactNumbers& compact,
                        int32_t* failed, cudaStream_t stream) {
  launch_layer("folded_multipliers", channels, FoldedChannels{scale_x, folded, multiplier, offset}, sums, output,
               compact, failed, stream);
}

void scale_gradient(const double* sum, double factor, float* out, int64_t n, cudaStream_t stream) {
  for_channels("scale_gradient", n, stream,
               [=] __device__(int64_t i) { out[i] = static_cast<float>(sum[i] * factor); });
}

void running_gain(const BatchNorm& norm, int64_t channels, double* gain, cudaStream_t stream) {
  for_channels("running_gain", channels, stream, [=] __device__(int64_t c) {
    const double k = norm.gamma[c] / sqrt(static_cast<double>(norm.running_var[c]) + norm.eps);
    gain[c] = k + copysign(1e-30, k);
  });
}

}  // namespace qat::ops::cuda
