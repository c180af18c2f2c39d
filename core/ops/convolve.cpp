#include "core/ops/convolve.h"

#include <omp.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/ops/convolve_strips.h"
#include "core/ops/narrow.h"
#include "core/ops/nibbles.h"
#include "core/ops/requantize_kernels.h"

namespace qat::ops {

template <class Code>
PackedConvolution<Code>::PackedConvolution(const ConvGeometry& g, const int16_t* w, int32_t zero_point, int32_t highest)
    : packed_(kernels::pack_convolution<Code>(g, w, zero_point, highest)) {}
template <class Code>
PackedConvolution<Code>::PackedConvolution(const ConvGeometry& g, const int8_t* w, int32_t zero_point, int32_t highest)
    : packed_(kernels::pack_convolution<Code>(g, w, zero_point, highest)) {}
template <class Code>
PackedConvolution<Code>::~PackedConvolution() = default;
template <class Code>
PackedConvolution<Code>::PackedConvolution(PackedConvolution&&) noexcept = default;
template <class Code>
PackedConvolution<Code>& PackedConvolution<Code>::operator=(PackedConvolution&&) noexcept = default;

template <class Code>
const char* PackedConvolution<Code>::kernel() const {
  switch (packed_->kernel) {
    case kernels::Kernel::kPairs:
      return "pairs";
    case kernels::Kernel::kWinograd:
      return "winograd";
    case kernels::Kernel::kBits:
      return "bits";
    case kernels::Kernel::kQuads:
      return "quads";
    case kernels::Kernel::kDepthwise:
      return "depthwise";
    case kernels::Kernel::kDepthwiseQuads:
      return "depthwise quads";
  }
  return "";
}

template <class Code>
void PackedConvolution<Code>::accumulate(const Code* x, int64_t batch, int32_t* acc) const {
  const int64_t out_c = packed_->g.out_c;
  const auto finish = [&](const kernels::Part& part, const kernels::Multiply& multiply) {
    multiply(acc + part.first_pixel * out_c + part.channel, out_c, nullptr);
  };
  kernels::run_strips(*packed_, x, batch, false, std::ref(finish));
}

template <class Code>
void PackedConvolution<Code>::shrink() {
  kernels::PackedWeights<Code>& p = *packed_;
  if (p.kernel != kernels::Kernel::kQuads || p.quads.empty()) return;
  const auto n = static_cast<int64_t>(p.quads.size());
  std::vector<uint8_t> nibbles(static_cast<size_t>(packed_bytes(n)));
  if (!pack_nibbles(reinterpret_cast<const uint8_t*>(p.quads.data()), n, kernels::kLowestNibble, nibbles.data())) {
    return;
  }
  p.nibbles = std::move(nibbles);
  p.quads = AlignedVector<int8_t>();
}

template <class Code>
int64_t PackedConvolution<Code>::bytes() const {
  const auto of = [](const auto& v) { return static_cast<int64_t>(v.size() * sizeof(v[0])); };
  const kernels::PackedWeights<Code>& p = *packed_;
  return of(p.pairs) + of(p.quads) + of(p.nibbles) + of(p.bits) + of(p.start) + of(p.taps);
}

template <class Code>
bool PackedConvolution<Code>::fits_int16() const {
  return packed_->fits_int16;
}

template <class Code>
void PackedConvolution<Code>::accumulate(const Code* x, int64_t batch, int16_t* acc,
                                         ChannelStatistics* statistics) const {
  QAT_CHECK(fits_int16(), "convolve: the accumulators do not fit in 16 bits");
  const int64_t out_c = packed_->g.out_c;
  const auto channels = static_cast<size_t>(out_c), threads = static_cast<size_t>(omp_get_max_threads());
  // Of each thread apart; being exact, they do not depend on who adds what.
  std::vector<int64_t> sums(statistics == nullptr ? 0 : threads * 2 * channels);
  std::vector<int16_t> low(sums.size() / 2, 32767), high(sums.size() / 2, -32768);
  const auto finish = [&](const kernels::Part& part, const kernels::Multiply& multiply) {
    thread_local std::vector<int32_t> wide;
    wide.resize(std::max(wide.size(), static_cast<size_t>(part.pixels * part.channels + kernels::kSlack)));
    multiply(wide.data(), part.channels, nullptr);
    int16_t* out = acc + part.first_pixel * out_c + part.channel;
    if (statistics == nullptr) return narrow(wide.data(), part.pixels, part.channels, out, out_c, nullptr);
    const auto first = static_cast<size_t>(omp_get_thread_num()) * channels + static_cast<size_t>(part.channel);
    const NarrowStatistics of_thread{
        .sum = &sums[first], .squares = &sums[threads * channels + first], .min = &low[first], .max = &high[first]};
    narrow(wide.data(), part.pixels, part.channels, out, out_c, &of_thread);
  };
  kernels::run_strips(*packed_, x, batch, true, std::ref(finish));
  if (statistics == nullptr) return;
  const bool empty = batch == 0;
  *statistics = {std::vector<double>(channels), std::vector<double>(channels),
                 std::vector<int32_t>(channels, empty ? 0 : INT32_MAX),
                 std::vector<int32_t>(channels, empty ? 0 : INT32_MIN)};
  for (size_t c = 0; c < channels; ++c) {
    int64_t sum = 0, squares = 0;
    for (size_t at = c; at < threads * channels; at += channels) {
      sum += sums[at];
      squares += sums[threads * channels + at];
      if (empty) continue;
      statistics->min[c] = std::min<int32_t>(statistics->min[c], low[at]);
      statistics->max[c] = std::max<int32_t>(statistics->max[c], high[at]);
    }
    statistics->sum[c] = static_cast<double>(sum);
    statistics->sum_squares[c] = static_cast<double>(squares);
  }
}

template <class Code>
void PackedConvolution<Code>::requantize(const Code* x, int64_t batch, const int32_t* bias, const float* multiplier,
                                         CodeRange range, Code* y) const {
  const int64_t out_c = packed_->g.out_c;
  const kernels::Requantizer<Code> requantizer(out_c, bias, multiplier, range);
  const kernels::Requantization& q = requantizer.parameters();
  const auto finish = [&](const kernels::Part& part, const kernels::Multiply& multiply) {
    if (packed_->fuses_codes()) {
      const kernels::CodeOutput codes{.bias = q.bias == nullptr ? nullptr : q.bias + part.channel,
                                      .multiplier = q.multiplier + part.channel,
                                      .lo = q.lo,
                                      .hi = q.hi,
                                      .zero_point = q.zero_point,
                                      .is_signed = std::is_signed_v<Code>,
                                      .codes = reinterpret_cast<uint8_t*>(y + part.first_pixel * out_c + part.channel),
                                      .stride = out_c};
      return multiply(nullptr, 0, &codes);
    }
    thread_local std::vector<int32_t> acc;
    acc.resize(static_cast<size_t>(part.pixels * part.channels));
    multiply(acc.data(), part.channels, nullptr);
    Code* out = y + part.first_pixel * out_c + part.channel;
    if (part.channels == out_c) {
      requantizer.rows(acc.data(), part.pixels, out);
      return;
    }
    for (int64_t p = 0; p < part.pixels; ++p) {
      requantizer.part(acc.data() + p * part.channels, part.channel, part.channels, out + p * out_c);
    }
  };
  kernels::run_strips(*packed_, x, batch, false, std::ref(finish));
}

template <class Code>
void convolve(const ConvGeometry& g, const Code* x, int32_t zero_point, const int16_t* w, int32_t* acc) {
  PackedConvolution<Code>(g, w, zero_point).accumulate(x, g.batch, acc);
}

#define QAT_INSTANTIATE(Code)             \
  template class PackedConvolution<Code>; \
  template void convolve<Code>(const ConvGeometry&, const Code*, int32_t, const int16_t*, int32_t*);
QAT_INSTANTIATE(uint8_t)
QAT_INSTANTIATE(int8_t)
#undef QAT_INSTANTIATE

}  // namespace qat::ops
