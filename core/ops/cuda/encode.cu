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
