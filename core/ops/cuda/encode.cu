#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/encode.h"

namespace qat::ops::cuda {

void encode(const float* x, int64_t n, const float* scale, DeviceRange range, uint8_t* codes, uint8_t* inside,
            cudaStream_t stream) {
  require_codes(range, "encode");
  for_parts("encode", n, aligned(x, codes), stream, [=] __device__(const Part& part) {
    const Bounds bounds(range);
    const float s = *scale;
    const Eight<float> values = load(x, part);
    Eight<uint8_t> result;
    unsigned bits = 0;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      const float t = values.at[k] / s;
      result.at[k] = bounds.code(t);
      bits |= static_cast<unsigned>(bounds.inside(t)) << k;
    }
    store(codes, part, result);
    store_mask(inside, part, bits);
  });
}

void encode_per_channel(const float* x, int64_t channels, int64_t depth, const float* scale, int32_t lo, int32_t hi,
                        int8_t* codes, cudaStream_t stream) {
  require(lo >= -128 && lo <= hi && hi <= 127, "encode_per_channel", "weight codes must fit [-128, 127]");
  for_parts("encode_per_channel", channels * depth, aligned(x, codes), stream, [=] __device__(const Part& part) {
    const Eight<float> values = load(x, part);
    int64_t c = quotient(part.begin, depth), left = (c + 1) * depth - part.begin;
    float s = scale[c];
    Eight<int8_t> result;
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      if (left == 0) {
        left = depth;
        // The elements behind the end have no channel.
        if (k < part.count) s = scale[++c];
      }
      --left;
      const float t = clip(values.at[k] / s, static_cast<float>(lo), static_cast<float>(hi));
      result.at[k] = static_cast<int8_t>(__float2int_rn(t));
    }
    store(codes, part, result);
  });
}

void dequantize(const uint8_t* codes, int64_t n, const float* scale, const int32_t* zero_point, float* x,
                cudaStream_t stream) {
  for_parts("dequantize", n, aligned(codes, x), stream, [=] __device__(const Part& part) {
    const float s = *scale;
    const int32_t z = *zero_point;
    const Eight<uint8_t> values = load(codes, part);
    Eight<float> result;
#pragma unroll
    for (int k = 0; k < kEight; ++k) result.at[k] = s * static_cast<float>(values.at[k] - z);
    store(x, part, result);
  });
}

}  // namespace qat::ops::cuda
