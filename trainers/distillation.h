// Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv:1503.02531), with features as hints (Romero et al. 2015,
// arXiv:1412.6550, without regressors):
//   (1 - w) L + w T^2 KL(softmax(t / T) || softmax(s / T)) + v mean over layers of mean (s_l - t_l)^2
// with L the loss of the labels, s and t the logits of student and teacher, KL a mean over samples.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainers/callback.h"
#include "trainers/run_folder.h"
#include "trainers/session.h"

namespace qat::trainers {

class Distillation final : public Callback {
 public:
  /// `start`: the stage begins now; otherwise it is resumed. A teacher `float` is the network of the session at the
  /// stage's start, kept beside the run's checkpoints so that a resumed stage has the same one.
  /// Throws ConfigError for features that are no layers of both networks, or in a float stage; and what loading weights
  /// throws.
  Distillation(Session& session, const DistillationConfig& config, const RunFolder& folder, int64_t stage,
               bool quantized, bool start);

  std::string name() const override { return "distillation"; }
  graph::GraphModule::Tap tap() override;
  at::Tensor loss(const at::Tensor& images, const at::Tensor& logits, const at::Tensor& loss) override;

 private:
  DistillationConfig config_;
  models::Model model_;
  std::shared_ptr<graph::GraphModule> teacher_;
  std::vector<std::string> layers_;  // whose outputs are compared
  std::vector<at::Tensor> student_;  // their outputs in this forward
};

}  // namespace qat::trainers
