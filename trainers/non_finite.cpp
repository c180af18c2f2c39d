#include "trainers/non_finite.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/GradMode.h>

#include "core/base/error.h"

namespace qat::trainers {
namespace {

bool is_finite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

}  // namespace

std::string find_non_finite(Session& session, bool quantized, const at::Tensor& images) {
  const at::NoGradGuard no_grad;
  // Not the buffers: running statistics follow the outputs that are looked for.
  for (const auto& [name, tensor] : session.parameters()) {
    if (!is_finite(tensor)) return fmt::format("{} is not finite", name);
  }
  std::shared_ptr<graph::GraphModule> net = session.net;
  if (!net) net = std::make_shared<graph::GraphModule>(session.graph, *session.model.module);
  const nn::Phase phase = net->phase();
  if (!quantized) net->set_phase(nn::Phase::kFloat);
  net->train();
  std::string first;
  try {
    net->forward(images, [&](const nn::QLayer& layer, const nn::Value& output) {
      if (first.empty() && !is_finite(nn::to_float(output))) {
        first = fmt::format("the output of {} is the first that is not finite", layer.label());
      }
    });
  } catch (const Error& error) {
    if (first.empty()) first = error.what();  // a layer that refuses what it got
  }
  net->set_phase(phase);
  return first.empty() ? "all layers' outputs are finite, only the loss is not" : first;
}

}  // namespace qat::trainers
