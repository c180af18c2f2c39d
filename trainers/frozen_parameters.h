// Parameters that do not train during a stage.
#pragma once

#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"
#include "trainers/session.h"

namespace qat::trainers {

/// Keeps parameters from training as long as it lives.
class FrozenParameters {
 public:
  /// Throws ConfigError for a pattern that matches none.
  FrozenParameters(const Session& session, const std::vector<std::string>& patterns) {
    const auto parameters = session.parameters();
    for (const std::string& pattern : patterns) {
      size_t matched = 0;
      std::vector<std::string> names;
      for (const auto& [name, parameter] : parameters) {
        names.push_back(name);
        if (!glob_match(pattern, name)) continue;
        ++matched;
        frozen_.push_back(parameter);
      }
      QAT_CHECK_AS(ConfigError, matched > 0, "freeze: {} matches no parameter{}", in_quotes(pattern),
                   did_you_mean(pattern, names));
    }
    set(false);
  }
  ~FrozenParameters() { set(true); }
  FrozenParameters(const FrozenParameters&) = delete;
  FrozenParameters& operator=(const FrozenParameters&) = delete;

  /// A float network in training mode, with the batch norms among the frozen parameters left in evaluation.
  void train(torch::nn::Module& module) const {
    module.train();
    if (frozen_.empty()) return;
    for (const auto& child : module.modules()) {
      const std::vector<at::Tensor> own = child->parameters(/*recurse=*/false);
      const bool is_norm = child->named_buffers(/*recurse=*/false).contains("running_mean");
      if (is_norm && !own.empty() && !own[0].requires_grad()) child->eval();
    }
  }

 private:
  void set(bool trainable) {
    for (at::Tensor& parameter : frozen_) parameter.set_requires_grad(trainable);
  }

  std::vector<at::Tensor> frozen_;
};

}  // namespace qat::trainers
