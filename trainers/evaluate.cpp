#include "trainers/evaluate.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "core/engine/engine.h"
#include "core/lower/lower.h"
#include "trainers/run.h"

namespace qat::trainers {
namespace {

/// A batch to its logits [size, classes]; `images` are those of the batch as LibTorch has them.
using Forward = std::function<at::Tensor(const datasets::Batch& batch, const at::Tensor& images)>;

/// The network in evaluation mode. The session must outlive it.
Forward forward_of(Session& session, Runtime runtime) {
  session.model.module->eval();
  if (runtime == Runtime::kFloat) {
    return [&session](const datasets::Batch&, const at::Tensor& x) { return session.model.forward(x); };
  }
  QAT_CHECK(session.net && session.net->phase() != nn::Phase::kFloat,
            "the network is not quantized yet: only the float runtime can run it");
  session.net->eval();
  if (runtime == Runtime::kSimulated) {
    return [&session](const datasets::Batch&, const at::Tensor& x) { return session.net->forward(x); };
  }
  const auto engine = std::make_shared<engine::Engine>(lower::lower(*session.net, session.preprocessing()));
  return [engine](const datasets::Batch& batch, const at::Tensor&) {
    engine::Value input;
    input.batch = batch.size;
    input.values = batch.images;
    std::vector<engine::Value> outputs = engine->run({input});
    engine::Value& logits = outputs.at(0);
    QAT_CHECK(!logits.values.empty(), "the lowered network's output is not float");
    const int64_t classes = static_cast<int64_t>(logits.values.size()) / batch.size;
    return at::from_blob(logits.values.data(), {batch.size, classes}, at::kFloat).clone();
  };
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
  const Forward forward = forward_of(session, runtime);
  const at::NoGradGuard no_grad;
  const auto loader = eval_loader(session);
  Evaluation result;
  datasets::Batch batch;
  loader->start_epoch(0);
  while (loader->next(batch)) {
    if (stop && *stop) throw Interrupted("stopped during an evaluation");
    const at::Tensor logits = forward(batch, to_tensors(batch, loader->shape()).images).to(at::kFloat).contiguous();
    result.add({logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())}, batch.labels);
  }
  return result;
}

double latency_ms(Session& session, Runtime runtime) {
  constexpr size_t kRuns = 20;
  constexpr double kEnoughMs = 1000;
  const Forward forward = forward_of(session, runtime);
  const at::NoGradGuard no_grad;
  const auto loader = eval_loader(session, 1);
  datasets::Batch batch;
  loader->start_epoch(0);
  QAT_CHECK(loader->next(batch), "there is no evaluation image");
  const TensorBatch tensors = to_tensors(batch, loader->shape());
  forward(batch, tensors.images);
  std::vector<double> times;
  double total = 0;
  while (times.size() < kRuns && total < kEnoughMs) {
    const auto start = std::chrono::steady_clock::now();
    forward(batch, tensors.images);
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    total += times.back();
  }
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace qat::trainers
