// AdaRound as a post-training stage: which of its two neighbours each weight is rounded to, by the layer's output.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "core/graph/graph_module.h"
#include "core/nn/weighted.h"

namespace qat::trainers {

/// The `adaptive_rounding` stage. Defaults are the paper's but for the number of iterations.
struct AdaptiveRoundingStage {
  int64_t iterations = 1000;
  int64_t batch_size = 32;
  int64_t samples = 256;
  double lr = 0.01;
  double regularization = 0.01;
  double beta_start = 20, beta_end = 2;
  double warmup = 0.2;
};

/// Adaptive rounding (Nagel et al., "Up or down? Adaptive rounding for post-training quantization", ICML 2020,
/// arXiv:2004.10568) of one layer. With w / s = floor + h(v), h the rectified sigmoid of core/ops/rounding.h:
///   minimize mean over images |f(W x) - f(W~ x~)|^2 + lambda sum (1 - |2 h(v) - 1|^beta)          (eq. 21, 24, 25)
///   W~ = s clip(floor(W / s) + h(v), lo, hi)                                                       (eq. 22)
/// by Adam over v, which starts where W~ = W; beta goes from beta_start to beta_end along half a cosine, and lambda is
/// 0 for the first `warmup` of the iterations. x~ is the quantized network's input of the layer, f(W x) the float
/// network's output, f the layer's batch norm and activation.
///
/// Returns W~ with h(v) rounded: values on the quantizer's grid. inputs, targets: [samples, ...]. Deterministic in
/// `key`.
at::Tensor adaptive_rounding(const nn::WeightedLayer& layer, const at::Tensor& inputs, const at::Tensor& targets,
                             const AdaptiveRoundingStage& options, uint64_t key);

/// All layers whose weights have evenly spaced levels and codes, in order, each behind those that are done; latent
/// weights become the chosen values, so that nearest rounding gives them again, unless nearest rounding was better.
/// images: [samples, C, H, W]. Calls report(layer, squared error with nearest and with adaptive rounding) for each.
/// Throws ConfigError if no layer has such a weight.
void adaptive_rounding(graph::GraphModule& net, const at::Tensor& images, const AdaptiveRoundingStage& options,
                       uint64_t key,
                       const std::function<void(const nn::WeightedLayer&, double nearest, double adaptive)>& report);

}  // namespace qat::trainers

template <>
struct qat::config::Schema<qat::trainers::AdaptiveRoundingStage> {
  static void describe(Fields<qat::trainers::AdaptiveRoundingStage>& f);
};
