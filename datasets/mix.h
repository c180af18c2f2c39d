// Mixing the images of a batch with each other: mixup and cutmix.
#pragma once

#include <cstdint>
#include <vector>

#include "datasets/loader.h"

namespace qat::datasets {

struct MixOptions {
  double mixup_alpha = 0;   ///< 0: no mixup
  double cutmix_alpha = 0;  ///< 0: no cutmix
};

/// A mixed batch's targets: the loss is `share` times that of the batch's own labels, and 1 - share times that of
/// `others`.
struct Mixture {
  double share = 1;
  std::vector<int64_t> others;  ///< [N]; empty when nothing was mixed
};

/// Mixes each image with the one before it in the batch (the first with the last), as torchvision.transforms.v2 does:
///   mixup   x = s x + (1 - s) x',  s ~ Beta(alpha, alpha)                     (Zhang et al. 2017, arXiv:1710.09412)
///   cutmix  a box of x' in x, its middle anywhere and its sides sqrt(1 - s) of the image's, cut to the image; s
///   becomes
///           the share that is left of x                                       (Yun et al. 2019, arXiv:1905.04899)
/// With both, one of them by the toss of a coin. All random numbers come from `key`. Throws qat::Error for a negative
/// alpha.
Mixture mix(Batch& batch, const Shape& shape, const MixOptions& options, uint64_t key);

}  // namespace qat::datasets
