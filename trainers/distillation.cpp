#include "trainers/distillation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/kl_div.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mse_loss.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

#include "core/base/text.h"
#include "core/graph/passes.h"
#include "core/graph/trace.h"
#include "core/nn/layer.h"

namespace qat::trainers {
namespace {

/// Layers of `net` that run, by name.
std::vector<std::string> layer_names(const graph::GraphModule& net) {
  std::vector<std::string> names;
  for (size_t i = 0; i < net.steps().size(); ++i) {
    if (net.is_needed(static_cast<int>(i))) names.push_back(net.steps()[i].layer->label());
  }
  return names;
}

size_t position(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

std::vector<std::string> matching(const DistillationConfig& config, const config::Node& where,
                                  const graph::GraphModule& student, const graph::GraphModule& teacher) {
  const std::vector<std::string> ours = layer_names(student), theirs = layer_names(teacher);
  std::vector<std::string> result;
  for (const std::string& pattern : config.features) {
    const size_t before = result.size();
    for (const std::string& name : ours) {
      const bool known = position(theirs, name) < theirs.size();
      if (known && glob_match(pattern, name) && position(result, name) == result.size()) result.push_back(name);
    }
    if (result.size() == before) {
      throw where.error(fmt::format("features: {} matches no layer that student and teacher have{}", in_quotes(pattern),
                                    did_you_mean(pattern, ours)));
    }
  }
  return result;
}

std::string teacher_file(const RunFolder& folder, int64_t stage) {
  return fmt::format("{}/checkpoints/teacher_{}.safetensors", folder.path(), stage);
}

}  // namespace

Distillation::Distillation(Session& session, const DistillationConfig& config, const RunFolder& folder, int64_t stage,
                           bool quantized, bool start)
    : config_(config) {
  const Experiment& e = session.experiment;
  const config::Node& teacher = config_.teacher;
  if (teacher.is_map()) {
    const std::optional<WeightsConfig> weights = weights_of(teacher);
    if (!weights) throw teacher.error("a teacher needs `weights`");
    model_ = make_model(teacher);
    load_weights(model_, teacher, *weights);
  } else {
    if (teacher.text() != "float") {
      throw teacher.error(fmt::format("expected float or a model with weights, found {}", teacher.describe()));
    }
    const std::string path = teacher_file(folder, stage);
    if (start) io::write_tensors(path, {io::state_of(*session.model.module), {}});
    model_ = make_model(e.model);
    io::copy_state(io::state_of(*model_.module), io::read_tensors(path).tensors, path);
  }
  model_.module->eval();
  if (config_.features.empty()) return;
  if (!quantized) throw teacher.error("features are compared in finetune stages only");
  graph::Graph graph = graph::trace(*model_.module, forward_of(model_), session.image_sizes());
  graph::canonicalize(graph, graph::fuse_options(*e.quantization), nullptr);
  teacher_ = std::make_shared<graph::GraphModule>(graph, *model_.module);
  teacher_->eval();
  layers_ = matching(config_, teacher, *session.net, *teacher_);
  student_.resize(layers_.size());
}

graph::GraphModule::Tap Distillation::tap() {
  if (layers_.empty()) return nullptr;
  return [this](const nn::QLayer& layer, const nn::Value& output) {
    const size_t at = position(layers_, layer.label());
    if (at < layers_.size()) student_[at] = nn::to_float(output);
  };
}

at::Tensor Distillation::loss(const at::Tensor& images, const at::Tensor& logits, const at::Tensor& loss) {
  std::vector<at::Tensor> features(layers_.size());
  at::Tensor targets;
  {
    const at::NoGradGuard no_grad;
    const auto tap = [&](const nn::QLayer& layer, const nn::Value& output) {
      const size_t at = position(layers_, layer.label());
      if (at < layers_.size()) features[at] = nn::to_float(output);
    };
    targets = teacher_ ? teacher_->forward(images, tap) : model_.forward(images);
  }
  QAT_CHECK(targets.sizes() == logits.sizes(), "distillation: the teacher's logits are [{}], the student's [{}]",
            fmt::join(targets.sizes(), ", "), fmt::join(logits.sizes(), ", "));
  const double t = config_.temperature, w = config_.weight;
  at::Tensor total = loss * (1 - w);
  if (w > 0) {
    // Reduction::Mean would divide by the number of classes as well.
    const at::Tensor divergence =
        at::kl_div((logits / t).log_softmax(1), (targets / t).log_softmax(1), at::Reduction::Sum, /*log_target=*/true);
    total = total + divergence * (w * t * t / static_cast<double>(logits.size(0)));
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    QAT_CHECK(student_[i].sizes() == features[i].sizes(), "distillation: {}: the teacher has [{}], the student [{}]",
              layers_[i], fmt::join(features[i].sizes(), ", "), fmt::join(student_[i].sizes(), ", "));
    total =
        total + at::mse_loss(student_[i], features[i]) * (config_.feature_weight / static_cast<double>(layers_.size()));
    student_[i] = at::Tensor();
  }
  return total;
}

}  // namespace qat::trainers
