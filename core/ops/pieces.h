// Splitting element-wise work among threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace qat::ops {

/// Elements of a piece: a multiple of 64, so that pieces do not share a byte of a mask; a piece and its flags stay in
/// the first-level cache.
constexpr int64_t kPiece = 4096;

/// Calls work(index, begin, count) for the pieces of [0, n), in parallel where there are many. The pieces do not depend
/// on the number of threads. work must not throw.
template <class Work>
void for_pieces(int64_t n, const Work& work) {
  const int64_t pieces = (n + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (pieces >= 16)
  for (int64_t p = 0; p < pieces; ++p) work(p, p * kPiece, std::min(kPiece, n - p * kPiece));
}

}  // namespace qat::ops
