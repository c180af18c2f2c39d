#include "core/ops/fake_quantize.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/ops/round.h"

namespace qat::ops {
namespace {

/// One value's way: t = x / scale, clipped one step beyond the range so that masks still see what lies outside.
template <class Round>
void fake_quantize_row(const float* x, int64_t n, float scale, float lo, float hi, bool reciprocal, float* y,
                       const Round& round) {
  const float inverse = 1.0f / scale;
  for (int64_t i = 0; i < n; ++i) {
    const float t = clip(reciprocal ? x[i] * inverse : x[i] / scale, lo - 1, hi + 1);
    y[i] = scale * clip(round(t, i), lo, hi);
  }
}

/// Calls with(round), round(t, index in the tensor) for |t| <= 2^22.
template <class With>
void with_rounding(const Grid& grid, int64_t begin, const With& with) {
  const Rounding mode = grid.rounding;
  if (mode == Rounding::kHalfEven) {
    with([](float t, int64_t) { return round_even(t); });
  } else if (mode == Rounding::kStochastic) {
    with([seed = grid.seed, begin](float t, int64_t i) {
      return round_stochastic(t, seed, static_cast<uint64_t>(begin + i));
    });
  } else {
    with([mode](float t, int64_t) { return round_to(t, mode); });
  }
}

struct Sums {
  double scale = 0, offset = 0;
};

struct Row {
  const float *x, *g;
  int64_t n;
  float scale, lo, hi;
  float* dx;  // may be null
};

template <class Round>
Sums gradient_row(const Row& row, bool reciprocal, const GridGradient& rule, const Round& round) {
  Sums sums;
  const float inverse = 1.0f / row.scale;
  const auto gain = static_cast<float>(rule.ewgs / (static_cast<double>(row.hi) - row.lo));
  for (int64_t i = 0; i < row.n; ++i) {
    const float g = row.g[i], t = reciprocal ? row.x[i] * inverse : row.x[i] / row.scale;
    const float rounded = round(clip(t, row.lo - 1, row.hi + 1), i);
    const float decides = rule.mask == GridGradient::Mask::kCode ? rounded : t;
    const bool inside = decides >= row.lo && decides <= row.hi, above = decides > row.hi;
    const float code = clip(rounded, row.lo, row.hi), error = t - code;
    if (inside) {
      sums.scale -= static_cast<double>(g) * error;
    } else {
      sums.scale += static_cast<double>(g) * (above ? row.hi : row.lo);
      sums.offset += g;
    }
    if (row.dx == nullptr) continue;
    float dx = inside || rule.mask == GridGradient::Mask::kNone ? g : 0.0f;
    if (gain != 0 && inside) dx *= 1.0f + (g > 0 ? gain : -gain) * error;
    row.dx[i] = dx;
  }
  return sums;
}

}  // namespace

void fake_quantize(const float* x, const Grid& grid, float* y) {
#pragma omp parallel for collapse(2) schedule(static) if (grid.outer * grid.channels * grid.inner >= 65536)
  for (int64_t o = 0; o < grid.outer; ++o) {
    for (int64_t c = 0; c < grid.channels; ++c) {
      const int64_t begin = (o * grid.channels + c) * grid.inner;
      const int32_t z = grid.zero_point[c];
      with_rounding(grid, begin, [&](const auto& round) {
        fake_quantize_row(x + begin, grid.inner, grid.scale[c], static_cast<float>(grid.lo - z),
                          static_cast<float>(grid.hi - z), grid.reciprocal, y + begin, round);
      });
    }
  }
}

void fake_quantize_gradient(const float* x, const float* g, const Grid& grid, const GridGradient& rule, float* dx,
                            double* dscale, double* doffset) {
#pragma omp parallel for schedule(static) if (grid.outer * grid.channels * grid.inner >= 65536)
  for (int64_t c = 0; c < grid.channels; ++c) {
    Sums total;
    for (int64_t o = 0; o < grid.outer; ++o) {
      const int64_t begin = (o * grid.channels + c) * grid.inner;
      const int32_t z = grid.zero_point[c];
      const Row row{.x = x + begin,
                    .g = g + begin,
                    .n = grid.inner,
                    .scale = grid.scale[c],
                    .lo = static_cast<float>(grid.lo - z),
                    .hi = static_cast<float>(grid.hi - z),
                    .dx = dx == nullptr ? nullptr : dx + begin};
      with_rounding(grid, begin, [&](const auto& round) {
        const Sums sums = gradient_row(row, grid.reciprocal, rule, round);
        total.scale += sums.scale;
        total.offset += sums.offset;
      });
    }
    if (dscale != nullptr) dscale[c] = total.scale;
    if (doffset != nullptr) doffset[c] = total.offset;
  }
}

}  // namespace qat::ops
