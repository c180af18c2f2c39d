// Top-1, top-5 and cross-entropy of logits, the same for every runtime that computes them.
#pragma once

#include <cstdint>
#include <span>

namespace qat::judges {

/// Sums over samples.
struct Score {
  int64_t samples = 0;
  int64_t top1 = 0, top5 = 0;  // samples whose label is among the 1 and the 5 largest logits; of equal ones the first
  double loss_sum = 0;         // of -log(softmax(logits)[label]), in float64

  double top1_fraction() const { return fraction(top1); }
  double top5_fraction() const { return fraction(top5); }
  double loss() const { return samples > 0 ? loss_sum / static_cast<double>(samples) : 0; }

  /// logits [labels.size(), classes]; 0 <= label < classes. A label whose logit is not a number counts as wrong.
  void add(std::span<const float> logits, std::span<const int64_t> labels);

 private:
  double fraction(int64_t count) const {
    return samples > 0 ? static_cast<double>(count) / static_cast<double>(samples) : 0;
  }
};

}  // namespace qat::judges
