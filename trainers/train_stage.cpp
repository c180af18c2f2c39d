#include "trainers/train_stage.h"

namespace qat::config {

using trainers::DistillationConfig;
using trainers::EarlyStoppingConfig;
using trainers::TrainStage;
using trainers::WeightAverageConfig;

void Schema<WeightAverageConfig>::describe(Fields<WeightAverageConfig>& f) {
  f.field("decay", &WeightAverageConfig::decay).doc("of the average at each update").minimum(0).below(1);
  f.field("every", &WeightAverageConfig::every).doc("optimizer steps between updates").minimum(1);
  f.field("warmup", &WeightAverageConfig::warmup).doc("decay at most (1 + n) / (10 + n) at the n-th update");
}

void Schema<DistillationConfig>::describe(Fields<DistillationConfig>& f) {
  f.field("teacher", &DistillationConfig::teacher)
      .doc("float: the network as the stage found it, in float; or a `model:` section with weights");
  f.field("temperature", &DistillationConfig::temperature).doc("that softens both networks' logits").above(0);
  f.field("weight", &DistillationConfig::weight)
      .doc("share of the teacher's logits in the loss; the labels have the rest")
      .minimum(0)
      .maximum(1);
  f.field("features", &DistillationConfig::features)
      .doc("layers (globs) whose outputs are drawn to the teacher's, by mean squared error; finetune only");
  f.field("feature_weight", &DistillationConfig::feature_weight).doc("of the mean of those errors").minimum(0);
}

void Schema<EarlyStoppingConfig>::describe(Fields<EarlyStoppingConfig>& f) {
  f.field("metric", &EarlyStoppingConfig::metric).doc("of the evaluation split").one_of({"top1", "loss"});
  f.field("patience", &EarlyStoppingConfig::patience).doc("epochs without improvement that end the stage").minimum(1);
  f.field("min_delta", &EarlyStoppingConfig::min_delta).doc("smallest change that is an improvement").minimum(0);
}

void Schema<TrainStage>::describe(Fields<TrainStage>& f) {
  f.field("epochs", &TrainStage::epochs).doc("passes over the training images").minimum(1).maximum(1e6);
  f.field("steps", &TrainStage::steps).doc("optimizer steps at most, for trials; null: all of the epochs").minimum(1);
  f.field("accumulate", &TrainStage::accumulate)
      .doc("batches whose gradients make one optimizer step; the last step of an epoch may have fewer")
      .minimum(1);
  f.field("label_smoothing", &TrainStage::label_smoothing)
      .doc("share of each target that all classes get alike (Szegedy et al. 2016)")
      .minimum(0)
      .below(1);
  f.field("mixup_alpha", &TrainStage::mixup_alpha)
      .doc("of mixup's Beta(alpha, alpha); 0: none")
      .minimum(0)
      .maximum(1000);
  f.field("cutmix_alpha", &TrainStage::cutmix_alpha)
      .doc("the same of cutmix; with both, one of them for each batch")
      .minimum(0)
      .maximum(1000);
  f.field("clip_grad_norm", &TrainStage::clip_grad_norm).doc("2-norm of all gradients at most; null: any").above(0);
  f.field("clip_grad_value", &TrainStage::clip_grad_value).doc("size of each gradient at most; null: any").above(0);
  f.field("freeze", &TrainStage::freeze)
      .doc("parameters (globs, `layer1.*`) that stay as they are; batch norms among them keep their statistics");
  f.field("autocast", &TrainStage::autocast).doc("what float layers compute in; null: float32").one_of({"bfloat16"});
  f.field("ema", &TrainStage::ema).doc("moving average of the weights; null: none");
  f.field("distillation", &TrainStage::distillation).doc("a teacher's part in the loss; null: none");
  f.field("early_stopping", &TrainStage::early_stopping).doc("null: all epochs run");
  f.field("result", &TrainStage::result)
      .doc("what the next stage gets: the weights of the last epoch, or of the best by top-1")
      .one_of({"last", "best"});
  f.field("optimizer", &TrainStage::optimizer).doc("{name: sgd, options}; names: qat list optimizers");
  f.field("schedule", &TrainStage::schedule).doc("{name: cosine, options}; names: qat list schedules");
}

}  // namespace qat::config
