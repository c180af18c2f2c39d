// Element-wise operators on codes on the GPU; see core/ops/pointwise.h.
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// ops::BinaryParams on the device, each [1].
struct BinaryParams {
  const float* scale_a = nullptr;
  const float* scale_b = nullptr;
  const float* scale_y = nullptr;
  const int32_t* zero_a = nullptr;
  const int32_t* zero_b = nullptr;
  DeviceRange range;  // of y
};

/// y may be a or b; inside may be null. The gradient of both operands is mask_gradient (requantize.h).
void add(const uint8_t* a, const uint8_t* b, int64_t n, const BinaryParams& p, uint8_t* y, uint8_t* inside, bool relu,
         cudaStream_t stream);

/// As in core/ops: a broadcast A changes places with B in the formula.
void add_broadcast(const uint8_t* a, bool broadcast_a, const uint8_t* b, int64_t batch, int64_t pixels,
                   int64_t channels, const BinaryParams& p, uint8_t* y, cudaStream_t stream);

void mul(const uint8_t* a, const uint8_t* b, int64_t n, const BinaryParams& p, uint8_t* y, cudaStream_t stream);

/// b [batch][channels].
void mul_broadcast(const uint8_t* a, const uint8_t* b, int64_t batch, int64_t pixels, int64_t channels,
                   const BinaryParams& p, uint8_t* y, cudaStream_t stream);

/// zero_point [1]; inside may be null.
void relu(const uint8_t* x, int64_t n, const int32_t* zero_point, uint8_t* y, uint8_t* inside, cudaStream_t stream);

/// table [256].
void lookup(const uint8_t* x, int64_t n, const int16_t* table, uint8_t* y, cudaStream_t stream);

/// Bytes of scratch memory that add_scale_gradient needs; aligned to 16.
size_t add_scale_gradient_scratch(int64_t n);

/// gradient [1] = float(factor * ops::add_scale_gradient()).
void add_scale_gradient(const float* g, const uint8_t* a, const uint8_t* b, const uint8_t* y, const uint8_t* inside,
                        int64_t n, const BinaryParams& p, double factor, float* gradient, void* scratch,
                        cudaStream_t stream);

/// Bytes of scratch memory that add_range needs; aligned to 16.
size_t add_range_scratch(int64_t n);

/// ends [2] = smallest and largest real value of a sum, as ops::add_range; scale_y and range are not read. n > 0.
void add_range(const uint8_t* a, const uint8_t* b, int64_t n, const BinaryParams& p, double* ends, void* scratch,
               cudaStream_t stream);

/// Bytes of scratch memory that mul_range needs; aligned to 16.
size_t mul_range_scratch(int64_t batch, int64_t pixels, int64_t channels);

/// ends [2] = smallest and largest product fl32(real a * real b), b [batch][channels] where broadcast; scale_y and
/// range are not read, and a zero may have the other sign. There must be an element.
void mul_range(const uint8_t* a, const uint8_t* b, int64_t batch, int64_t pixels, int64_t channels, bool broadcast,
               const BinaryParams& p, double* ends, void* scratch, cudaStream_t stream);

/// Bytes of scratch memory that mul_gradient needs; aligned to 16.
size_t mul_gradient_scratch(int64_t batch, int64_t pixels, int64_t channels, bool broadcast);

/// The gradients of a mul (core/autograd/pointwise.cpp, MulBackward). da, or null: as a. db, or null: as b, summed over
/// the pixels where broadcast. ds [1], or null: of the output scale; y is read for it alone. Sums are made in double in
/// a fixed order, of terms in float.
void mul_gradient(const float* g, const uint8_t* a, const uint8_t* b, int64_t batch, int64_t pixels, int64_t channels,
                  bool broadcast, const BinaryParams& p, float* da, float* db, const uint8_t* y, double* ds,
                  void* scratch, cudaStream_t stream);

/// into += x (n floats).
void add_values(const float* x, int64_t n, float* into, cudaStream_t stream);

/// Codes of a dropout: element i of block i / repeats is kept where (split_mix64(key [1], i / repeats) >> 11) * 2^-53
/// >= p, else it is zero_point [1]. kept: a bit an element. scale_y [1] = float(scale_x [1] / (1 - p)).
void dropout(const uint8_t* x, int64_t n, int64_t repeats, double p, const uint64_t* key, const float* scale_x,
             const int32_t* zero_point, uint8_t* y, uint8_t* kept, float* scale_y, cudaStream_t stream);

/// dx = kept ? float(g * (1 / (1 - p))) : 0.
void dropout_gradient(const float* g, const uint8_t* kept, int64_t n, double p, float* dx, cudaStream_t stream);

/// y [batch][channels][pixels] from x [batch][pixels][channels]: a flatten to the order of the float network.
template <class T>  // uint8_t, float
void to_channels_first(const T* x, int64_t batch, int64_t pixels, int64_t channels, T* y, cudaStream_t stream);

/// The way back.
template <class T>
void to_channels_last(const T* x, int64_t batch, int64_t pixels, int64_t channels, T* y, cudaStream_t stream);

}  // namespace qat::ops::cuda
