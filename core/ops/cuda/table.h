// Functions of one code as tables on the GPU, made there, since training changes the scales: core/ops/table.h, their
// ranges and their gradients (core/autograd/table.cpp).
#pragma once

#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

/// Those whose double arithmetic is the CPU's bit for bit; exp() is not.
enum class Function { kIdentity, kLeakyRelu, kHardsigmoid, kHardswish };

/// Scales and zero points are on the device, each [1].
struct TableParams {
  Function function = Function::kIdentity;
  float alpha = 0;  // kLeakyRelu
  const float* scale_x = nullptr;
  const int32_t* zero_x = nullptr;
  const float* scale_y = nullptr;
  DeviceRange range;  // of y
};

/// What a gradient needs to know of each of the input's codes.
struct Slopes {
  float to_input[256];  // dL/d(input) over the gradient at the output
  float to_scale[256];  // dL/d(output scale) over the same
};

/// table [256] = ops::function_table, for kIdentity ops::concat_table. slopes [1] may be null.
void make_table(const TableParams& p, uint8_t* table, Slopes* slopes, cudaStream_t stream);

/// Bytes of scratch memory that table_range needs; aligned to 16.
size_t table_range_scratch();

/// ends [2] = smallest and largest f(value) of the n codes that occur; infinity and -infinity where n is 0. joins: they
/// take the ends that were there with them. scale_y and range are not read.
void table_range(const uint8_t* x, int64_t n, const TableParams& p, double* ends, bool joins, void* scratch,
                 cudaStream_t stream);

/// y[p][y_begin + c] = table[x[p][c]], y [pixels][y_channels]: a concatenation's part.
void lookup_channels(const uint8_t* x, int64_t pixels, int64_t channels, const uint8_t* table, uint8_t* y,
                     int64_t y_channels, int64_t y_begin, cudaStream_t stream);

/// Bytes of scratch memory that table_gradient needs; aligned to 16.
size_t table_gradient_scratch(int64_t pixels, int64_t channels);

/// g [pixels][g_channels] is the gradient at the output, of which the channels from g_begin on are this input's.
/// dx [pixels][channels] = g * to_input[x], or null. ds [1] = sum of g * to_scale[x], in double in a fixed order, or
/// null; joins: it is added to what was there.
void table_gradient(const float* g, const uint8_t* x, int64_t pixels, int64_t channels, int64_t g_channels,
                    int64_t g_begin, const Slopes* slopes, float* dx, double* ds, bool joins, void* scratch,
                    cudaStream_t stream);

}  // namespace qat::ops::cuda
