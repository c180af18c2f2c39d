#include "quantizers/observers/minmax.h"

#include <algorithm>

namespace qat::quantizers {

std::pair<double, double> MinMaxObserver::combine(std::pair<double, double> range,
                                                  std::pair<double, double> batch) const {
  return {std::min(range.first, batch.first), std::max(range.second, batch.second)};
}

std::pair<double, double> MovingAverageObserver::combine(std::pair<double, double> range,
                                                         std::pair<double, double> batch) const {
  constexpr double kAveraging = 0.01;
  return {range.first + kAveraging * (batch.first - range.first),
          range.second + kAveraging * (batch.second - range.second)};
}

}  // namespace qat::quantizers
