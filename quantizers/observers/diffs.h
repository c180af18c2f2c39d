// The power-of-two step with the least squared error (Vitis AI 3.5, "diffs"): fix position fp means the step 2^-fp.
//
//   step = max(min / (-2^(b-1) - 0.5), max / (2^(b-1) - 0.5)); fp0 = floor(log2(1 / step)), 18 where step <= FLT_MIN
//   of fp0 .. fp0 + 4 the one with the least sum of (x - Q(x))^2, the first of equals; never above 12 (b <= 8) or 15
//   over batches: the most frequent fp, the smallest of equals
// `search: overflow` takes fp0: no value is clipped. Codes run over the tensor's range: from 0 where it is not signed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/ops/rounding.h"
#include "core/quant/observer.h"

namespace qat::quantizers {

/// What a fix position is searched for: codes in [lo, hi] around a zero point of 0.
struct FixPointFormat {
  int bits = 8;
  double lo = -128, hi = 127;
  ops::Rounding rounding = ops::Rounding::kHalfEven;
};

struct FixPosition {
  int value = 0;        // the best, capped
  int no_overflow = 0;  // fp0
};

/// n > 0 finite values.
FixPosition find_fix_position(const float* x, int64_t n, const FixPointFormat& format);

struct DiffsOptions {
  std::string search = "diffs";
  std::string round = "half_even";
};

class DiffsObserver final : public quant::Observer {
 public:
  explicit DiffsObserver(const quant::ObserverOptions& options);

  int fix_position() const;

 private:
  void add(const at::Tensor& values, double min, double max) override;
  /// [lo * 2^-fp, hi * 2^-fp]
  std::pair<double, double> range_now() const override;

  DiffsOptions options_;
  FixPointFormat format_;
  at::Tensor seen_;  // int64: how often each fix position won
};

}  // namespace qat::quantizers
