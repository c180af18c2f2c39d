#include "trainers/evaluate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/topk.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/engine/engine.h"
#include "core/lower/lower.h"
#include "trainers/run.h"

namespace qat::trainers {
namespace {

using Forward = std::function<at::Tensor(const datasets::Batch& batch, const at::Tensor& images)>;

Evaluation evaluate(Session& session, const Forward& forward, StopFlag stop) {
  const at::NoGradGuard no_grad;
  const auto loader = eval_loader(session);
  const datasets::Shape shape = loader->shape();
  Evaluation result;
  double loss = 0;
  datasets::Batch batch;
  loader->start_epoch(0);
  while (loader->next(batch)) {
    if (stop && *stop) throw Interrupted("stopped during an evaluation");
    const TensorBatch tensors = to_tensors(batch, shape);
    const at::Tensor logits = forward(batch, tensors.images);
    loss += at::cross_entropy_loss(logits, tensors.labels, {}, at::Reduction::Sum).item<double>();
    const int64_t k = std::min<int64_t>(5, logits.size(1));
    const at::Tensor hits = std::get<1>(logits.topk(k, 1)).eq(tensors.labels.unsqueeze(1));
    result.top1 += logits.argmax(1).eq(tensors.labels).sum().item<int64_t>();
    result.top5 += hits.sum().item<int64_t>();
    result.samples += batch.size;
  }
  result.loss = loss / static_cast<double>(std::max<int64_t>(1, result.samples));
  return result;
}

}  // namespace

const char* to_string(Runtime runtime) {
  switch (runtime) {
    case Runtime::kFloat:
      return "float";
    case Runtime::kSimulated:
      return "simulated";
    case Runtime::kInteger:
      return "integer";
  }
  return "";
}

Evaluation evaluate(Session& session, Runtime runtime, StopFlag stop) {
  session.model.module->eval();
  if (runtime == Runtime::kFloat) {
    return evaluate(
        session, [&](const datasets::Batch&, const at::Tensor& x) { return session.model.forward(x); }, stop);
  }
  QAT_CHECK(session.net && session.net->phase() != nn::Phase::kFloat,
            "the network is not quantized yet: only the float runtime can run it");
  session.net->eval();
  if (runtime == Runtime::kSimulated) {
    return evaluate(
        session, [&](const datasets::Batch&, const at::Tensor& x) { return session.net->forward(x); }, stop);
  }
  const engine::Engine engine(lower::lower(*session.net, session.preprocessing()));
  const auto run = [&](const datasets::Batch& batch, const at::Tensor&) {
    engine::Value input;
    input.batch = batch.size;
    input.values = batch.images;
    std::vector<engine::Value> outputs = engine.run({input});
    engine::Value& logits = outputs.at(0);
    QAT_CHECK(!logits.values.empty(), "the lowered network's output is not float");
    const int64_t classes = static_cast<int64_t>(logits.values.size()) / batch.size;
    return at::from_blob(logits.values.data(), {batch.size, classes}, at::kFloat).clone();
  };
  return evaluate(session, run, stop);
}

}  // namespace qat::trainers
