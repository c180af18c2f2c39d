// Compiled once for every vector target (Highway's foreach_target): the kernels are plain loops that the compiler
// vectorizes, each operation rounded once, so that all targets give the same codes.
#include "core/ops/encode.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/encode.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/ops/mask.h"
#include "core/ops/pieces.h"
#include "core/ops/round.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {

template <class Code>
void encode_piece(const float* __restrict x, int64_t n, float scale, CodeRange range, Code* __restrict codes) {
  const auto lo = static_cast<float>(range.lo - range.zero_point), hi = static_cast<float>(range.hi - range.zero_point);
  const int32_t zero_point = range.zero_point;
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = static_cast<Code>(static_cast<int32_t>(round_even(clip(x[i] / scale, lo, hi))) + zero_point);
  }
}

void encode_u8(const float* x, int64_t n, float scale, CodeRange range, uint8_t* codes) {
  encode_piece(x, n, scale, range, codes);
}
void encode_i8(const float* x, int64_t n, float scale, CodeRange range, int8_t* codes) {
  encode_piece(x, n, scale, range, codes);
}

void encode_flags(const float* __restrict x, int64_t n, float scale, CodeRange range, uint8_t* __restrict flags) {
  const auto lo = static_cast<float>(range.lo - range.zero_point), hi = static_cast<float>(range.hi - range.zero_point);
  for (int64_t i = 0; i < n; ++i) {
    const float t = x[i] / scale;
    flags[i] = static_cast<uint8_t>((t >= lo) & (t <= hi));
  }
}

template <class Code>
void dequantize_piece(const Code* __restrict codes, int64_t n, float scale, int32_t zero_point, float* __restrict x) {
  for (int64_t i = 0; i < n; ++i) x[i] = scale * static_cast<float>(codes[i] - zero_point);
}

void dequantize_u8(const uint8_t* codes, int64_t n, float scale, int32_t zero_point, float* x) {
  dequantize_piece(codes, n, scale, zero_point, x);
}
void dequantize_i8(const int8_t* codes, int64_t n, float scale, int32_t zero_point, float* x) {
  dequantize_piece(codes, n, scale, zero_point, x);
}

}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(encode_u8);
HWY_EXPORT(encode_i8);
HWY_EXPORT(encode_flags);
HWY_EXPORT(dequantize_u8);
HWY_EXPORT(dequantize_i8);

namespace {

void dispatch(const float* x, int64_t n, float scale, CodeRange range, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(encode_u8)(x, n, scale, range, codes);
}
void dispatch(const float* x, int64_t n, float scale, CodeRange range, int8_t* codes) {
  HWY_DYNAMIC_DISPATCH(encode_i8)(x, n, scale, range, codes);
}
void dispatch(const uint8_t* codes, int64_t n, float scale, int32_t zero_point, float* x) {
  HWY_DYNAMIC_DISPATCH(dequantize_u8)(codes, n, scale, zero_point, x);
}
void dispatch(const int8_t* codes, int64_t n, float scale, int32_t zero_point, float* x) {
  HWY_DYNAMIC_DISPATCH(dequantize_i8)(codes, n, scale, zero_point, x);
}

}  // namespace

template <class Code>
void encode(const float* x, int64_t n, float scale, CodeRange range, Code* codes, uint8_t* inside) {
  for_pieces(n, [&](int64_t, int64_t begin, int64_t count) {
    dispatch(x + begin, count, scale, range, codes + begin);
    if (inside == nullptr) return;
    uint8_t flags[kPiece];
    HWY_DYNAMIC_DISPATCH(encode_flags)(x + begin, count, scale, range, flags);
    pack_mask(flags, count, inside + begin / 8);
  });
}

void encode_per_channel(const float* x, int64_t channels, int64_t depth, const float* scale, int32_t lo, int32_t hi,
                        int8_t* codes) {
#pragma omp parallel for schedule(static) if (channels * depth >= 16 * kPiece)
  for (int64_t c = 0; c < channels; ++c) {
    dispatch(x + c * depth, depth, scale[c], CodeRange{.lo = lo, .hi = hi, .zero_point = 0}, codes + c * depth);
  }
}

template <class Code>
void dequantize(const Code* codes, int64_t n, float scale, int32_t zero_point, float* x) {
  for_pieces(
      n, [&](int64_t, int64_t begin, int64_t count) { dispatch(codes + begin, count, scale, zero_point, x + begin); });
}

template void encode<uint8_t>(const float*, int64_t, float, CodeRange, uint8_t*, uint8_t*);
template void encode<int8_t>(const float*, int64_t, float, CodeRange, int8_t*, uint8_t*);
template void dequantize<uint8_t>(const uint8_t*, int64_t, float, int32_t, float*);
template void dequantize<int8_t>(const int8_t*, int64_t, float, int32_t, float*);

}  // namespace qat::ops
#endif  // HWY_ONCE
