// How a range follows the ends of batches on a GPU; the formulas are those of quantizers/observers/range.h.
#pragma once

namespace qat::device {

enum class FollowRule { kMovingAverage, kExtremes, kLast };

}  // namespace qat::device
