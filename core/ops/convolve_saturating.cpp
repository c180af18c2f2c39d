// Compiled once for every vector target (Highway's foreach_target).
#include "core/ops/convolve_saturating.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/convolve_saturating.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/ops/scratch.h"

#ifndef QAT_CORE_OPS_CONVOLVE_SATURATING_CPP
#define QAT_CORE_OPS_CONVOLVE_SATURATING_CPP
namespace qat::ops {
namespace {
constexpr int64_t kLongest = 32;  // codes of 16 bits in the longest vector
}  // namespace
}  // namespace qat::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// acc[c] = start[c] + the sums of `channels` outputs, whose weights follow each other as the codes: 2 * half each.
void sums_of_pairs(const int16_t* codes, const int16_t* weights, int64_t half, int64_t channels, const int32_t* start,
                   int32_t* acc) {
  const hn::ScalableTag<int16_t> d;
  const hn::Repartition<int32_t, decltype(d)> d32;
  const auto one = hn::Set(d, 1);
  for (int64_t c = 0; c < channels; ++c, weights += 2 * half) {
    auto sum = hn::Zero(d32), odd = hn::Zero(d32);
    for (int64_t k = 0; k < half; k += static_cast<int64_t>(hn::Lanes(d))) {
      // Products of uint8 and int8 fit int16.
      const auto pair = hn::SaturatedAdd(hn::Mul(hn::LoadU(d, codes + k), hn::LoadU(d, weights + k)),
                                         hn::Mul(hn::LoadU(d, codes + half + k), hn::LoadU(d, weights + half + k)));
#if HWY_TARGET == HWY_SCALAR
      sum = hn::Add(sum, hn::PromoteTo(d32, pair));
#else
      sum = hn::ReorderWidenMulAccumulate(d32, pair, one, sum, odd);
#endif
    }
    const auto all = static_cast<uint32_t>(hn::GetLane(hn::SumOfLanes(d32, hn::Add(sum, odd))));
    acc[c] = static_cast<int32_t>(all + static_cast<uint32_t>(start[c]));  // modulo 2^32
  }
  (void)one;
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {
namespace {

HWY_EXPORT(sums_of_pairs);

/// The codes under the kernel at one output pixel, in the order of the weights of one output channel.
void gather(const ConvGeometry& g, const uint8_t* image, int64_t oh, int64_t ow, int64_t group, uint8_t zero_point,
            uint8_t* codes) {
  const int64_t group_in = g.in_c / g.groups;
  for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
    const int64_t ih = oh * g.stride_h - g.pad_top + kh * g.dilation_h;
    for (int64_t kw = 0; kw < g.kernel_w; ++kw, codes += group_in) {
      const int64_t iw = ow * g.stride_w - g.pad_left + kw * g.dilation_w;
      if (ih < 0 || ih >= g.in_h || iw < 0 || iw >= g.in_w) {
        std::fill_n(codes, group_in, zero_point);
      } else {
        std::copy_n(image + (ih * g.in_w + iw) * g.in_c + group * group_in, group_in, codes);
      }
    }
  }
}

/// Values of even places, then those of odd places; both halves end in zeros. n: of all values.
template <class T>
void part(const T* values, int64_t n, int64_t half, int16_t* parted) {
  for (int64_t k = 0; k < n / 2; ++k) parted[k] = values[2 * k], parted[half + k] = values[2 * k + 1];
  if (n % 2 != 0) parted[n / 2] = values[n - 1];
}

}  // namespace

SaturatingConvolution::SaturatingConvolution(const ConvGeometry& g, const int8_t* w, int32_t zero_point)
    : g_(g), zero_point_(zero_point), half_((g.depth() + 2 * kLongest - 1) / (2 * kLongest) * kLongest) {
  QAT_CHECK(zero_point >= 0 && zero_point <= 255, "expected a zero point in [0, 255], found {}", zero_point);
  weights_.resize(static_cast<size_t>(2 * half_ * g.out_c));
  start_.resize(static_cast<size_t>(g.out_c));
  for (int64_t c = 0; c < g.out_c; ++c) {
    part(w + c * g.depth(), g.depth(), half_, weights_.data() + 2 * half_ * c);
    int64_t sum = 0;
    for (int64_t k = 0; k < g.depth(); ++k) sum += w[c * g.depth() + k];
    start_[static_cast<size_t>(c)] = static_cast<int32_t>(static_cast<uint32_t>(-zero_point * sum));
  }
}

void SaturatingConvolution::accumulate(const uint8_t* x, int64_t batch, int32_t* acc) const {
  const ConvGeometry& g = g_;
  const int64_t depth = g.depth(), group_out = g.out_c / g.groups, out_h = g.out_h(), out_w = g.out_w();
  const int64_t rows = batch * out_h * out_w;
#pragma omp parallel if (rows * g.out_c * depth >= 1 << 16)
  {
    ScratchVector<uint8_t> codes(static_cast<size_t>(depth));
    ScratchVector<int16_t> parted(static_cast<size_t>(2 * half_), 0);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* image = x + row / (out_h * out_w) * g.in_h * g.in_w * g.in_c;
      for (int64_t group = 0; group < g.groups; ++group) {
        gather(g, image, row / out_w % out_h, row % out_w, group, static_cast<uint8_t>(zero_point_), codes.data());
        part(codes.data(), depth, half_, parted.data());
        const int64_t first = group * group_out;
        HWY_DYNAMIC_DISPATCH(sums_of_pairs)
        (parted.data(), weights_.data() + 2 * half_ * first, half_, group_out, start_.data() + first,
         acc + row * g.out_c + first);
      }
    }
  }
}

}  // namespace qat::ops
#endif  // HWY_ONCE
