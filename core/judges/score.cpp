#include "core/judges/score.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace qat::judges {

void Score::add(std::span<const float> logits, std::span<const int64_t> labels) {
  if (labels.empty()) return;
  QAT_CHECK(logits.size() % labels.size() == 0, "{} logits for {} labels", logits.size(), labels.size());
  const size_t classes = logits.size() / labels.size();
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto label = static_cast<size_t>(labels[i]);
    QAT_CHECK(label < classes, "label {} of {} classes", labels[i], classes);
    const std::span<const float> row = logits.subspan(i * classes, classes);
    size_t ahead = 0;
    for (size_t c = 0; c < classes; ++c) ahead += !(row[c] <= row[label]) || (row[c] == row[label] && c < label);
    top1 += ahead == 0 && !std::isnan(row[label]);
    top5 += ahead < 5 && !std::isnan(row[label]);
    const double largest = *std::ranges::max_element(row);
    double sum = 0;
    for (const float value : row) sum += std::exp(value - largest);
    loss_sum += largest + std::log(sum) - row[label];
  }
  samples += static_cast<int64_t>(labels.size());
}

}  // namespace qat::judges
