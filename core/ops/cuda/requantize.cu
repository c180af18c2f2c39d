#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/requantize.h"

namespace qat::ops::cuda {
namespace {

/// What is kept of an accumulator; differences wrap as on the CPU.
__device__ int16_t compacted(int32_t acc, int32_t middle, float gain) {
  const auto centred = static_cast<int32_t>(static_cast<uint32_t>(acc) - static_cast<uint32_t>(middle));
  const float scaled = static_cast<float>(centred) * gain;
  return static_cast<int16_t>(__float2int_rn(fminf(fmaxf(scaled, -32768.0f), 32767.0f)));
}

__device__ Eight<int16_t> compacted(const Eight<int32_t>& acc, const Eight<int32_t>& middle, const Eight<float>& gain) {
  Eight<int16_t> kept;
#pragma unroll
  for (int k = 0; k < kEight; ++k) kept.at[k] = compacted(acc.at[k], middle.at[k], gain.at[k]);
  return kept;
}

/// Of the channels of a live pass.
struct AffineNumbers {
  Eight<float> multiplier, offset;
  Eight<int32_t> middle;  // where something is kept
  Eight<float> gain;
};

/// float(acc + bias) * multiplier; the sum wraps.
__device__ Eight<float> scaled(const Eight<int32_t>& acc, const int32_t* bias, const float* multiplier,
                               const PartChannels& channel) {
  const Eight<float> m = channel.load(multiplier);
  Eight<int32_t> b = {};
  if (bias != nullptr) b = channel.load(bias);
  Eight<float> t;
#pragma unroll
  for (int k = 0; k < kEight; ++k) {
    const auto sum = static_cast<int32_t>(static_cast<uint32_t>(acc.at[k]) + static_cast<uint32_t>(b.at[k]));
    t.at[k] = static_cast<float>(sum) * m.at[k];
  }
  return t;
}

__device__ void store_codes(const Eight<float>& t, const Part& part, const DeviceRange& range, bool relu,
                            uint8_t* codes, uint8_t* inside) {
  const Bounds bounds(range);
  Eight<uint8_t> result;
  unsigned bits = 0;
#pragma unroll
  for (int k = 0; k < kEight; ++k) {
    result.at[k] = bounds.code(t.at[k]);
    bits |= static_cast<unsigned>(bounds.inside(t.at[k], relu)) << k;
  }
  store(codes, part, result);
  store_mask(inside, part, bits);
}

}  // namespace

void requantize(const int32_t* acc, int64_t rows, int64_t channels, const int32_t* bias, const float* multiplier,
                DeviceRange range, uint8_t* codes, uint8_t* inside, bool relu, cudaStream_t stream) {
  require_codes(range, "requantize");
  const bool vectors = aligned(acc, bias, multiplier, codes);
  for_parts("requantize", rows * channels, vectors, stream, [=] __device__(const Part& part) {
    const PartChannels channel(part, channels);
    store_codes(scaled(load(acc, part), bias, multiplier, channel), part, range, relu, codes, inside);
  });
}

void requantize_affine(const int32_t* acc, int64_t rows, int64_t channels, const float* multiplier, const float* offset,
                       DeviceRange range, uint8_t* codes, uint8_t* inside, bool relu, const Compact& keep,
                       cudaStream_t stream) {
  require_codes(range, "requantize_affine");
  const bool vectors = aligned(acc, multiplier, offset, codes) && aligned(keep.middle, keep.gain, keep.kept);
  const auto setup = [=] __device__(const PartChannels& channel) {
    AffineNumbers n = {channel.load(multiplier), channel.load(offset), {}, {}};
    if (keep.kept != nullptr) n.middle = channel.load(keep.middle), n.gain = channel.load(keep.gain);
    return n;
  };
  const auto body = [=] __device__(const Part& part, const AffineNumbers& n) {
    const Eight<int32_t> values = load(acc, part);
    Eight<float> t;
#pragma unroll
    for (int k = 0; k < kEight; ++k)
      t.at[k] = fmaf(static_cast<float>(values.at[k]), n.multiplier.at[k], n.offset.at[k]);
    store_codes(t, part, range, relu, codes, inside);
    if (keep.kept != nullptr) store(keep.kept, part, compacted(values, n.middle, n.gain));
  };
  for_rows("requantize_affine", rows, channels, vectors, stream, setup, body);
}

void dequantize_accumulators(const int32_t* acc, int64_t rows, int64_t channels, const int32_t* bias,
                             const float* multiplier, float* y, cudaStream_t stream) {
  const bool vectors = aligned(acc, bias, multiplier, y);
  for_parts("dequantize_accumulators", rows * channels, vectors, stream, [=] __device__(const Part& part) {
    store(y, part, scaled(load(acc, part), bias, multiplier, PartChannels(part, channels)));
  });
}

void compact(const int32_t* acc, int64_t rows, int64_t channels, const Compact& keep, cudaStream_t stream) {
  const bool vectors = aligned(acc, keep.kept) && aligned(keep.middle, keep.gain);
  for_parts("compact", rows * channels, vectors, stream, [=] __device__(const Part& part) {
    const PartChannels channel(part, channels);
    store(keep.kept, part, compacted(load(acc, part), channel.load(keep.middle), channel.load(keep.gain)));
  });
}

}  // namespace qat::ops::cuda
