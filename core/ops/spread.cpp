#include "core/ops/spread.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/ops/pieces.h"

namespace qat::ops {

template <class Code>
void spread(const SpreadGeometry& g, const Code* x, Code fill, Code* y) {
  QAT_CHECK(g.step_h >= 1 && g.step_w >= 1 && g.out_h() > 0 && g.out_w() > 0,
            "spread: a {}x{} map in steps of {}x{} leaves {}x{} pixels", g.in_h, g.in_w, g.step_h, g.step_w, g.out_h(),
            g.out_w());
  const int64_t out_h = g.out_h(), out_w = g.out_w(), line = out_w * g.channels;
#pragma omp parallel for schedule(static) if (g.batch * out_h * line >= 16 * kPiece)
  for (int64_t row = 0; row < g.batch * out_h; ++row) {
    Code* to = y + row * line;
    std::fill_n(to, line, fill);
    const int64_t from = row % out_h - g.pad_top;
    if (from < 0 || from % g.step_h != 0 || from / g.step_h >= g.in_h) continue;
    const Code* pixels = x + (row / out_h * g.in_h + from / g.step_h) * g.in_w * g.channels;
    for (int64_t c = 0; c < g.in_w; ++c) {
      const int64_t at = c * g.step_w + g.pad_left;
      if (at >= 0 && at < out_w) std::copy_n(pixels + c * g.channels, g.channels, to + at * g.channels);
    }
  }
}

template void spread<uint8_t>(const SpreadGeometry&, const uint8_t*, uint8_t, uint8_t*);
template void spread<int8_t>(const SpreadGeometry&, const int8_t*, int8_t, int8_t*);

}  // namespace qat::ops
