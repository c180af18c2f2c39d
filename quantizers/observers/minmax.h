// The smallest and largest value of all batches, or their moving averages.
#pragma once

#include "core/quant/observer.h"

namespace qat::quantizers {

/// Range over everything seen.
class MinMaxObserver final : public quant::Observer {
 protected:
  std::pair<double, double> combine(std::pair<double, double> range, std::pair<double, double> batch) const override;
};

/// r <- r + 0.01 * (batch - r), starting with the first batch (torch.ao's MovingAverageMinMaxObserver, averaging
/// constant 0.01).
class MovingAverageObserver final : public quant::Observer {
 protected:
  std::pair<double, double> combine(std::pair<double, double> range, std::pair<double, double> batch) const override;
};

}  // namespace qat::quantizers
