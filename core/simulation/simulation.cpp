#include "core/simulation/simulation.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>

#include "core/base/error.h"

namespace qat::simulation {
namespace {

class EvaluationMode {
 public:
  explicit EvaluationMode(graph::GraphModule& net) : net_(net), training_(net.is_training()) { net_.eval(); }
  ~EvaluationMode() { net_.train(training_); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  graph::GraphModule& net_;
  bool training_;
};

/// NHWC (or [N, F]).
engine::Value value_of(const nn::Value& value, int64_t batch) {
  engine::Value result{.batch = batch, .codes = {}, .values = {}};
  if (const auto* codes = std::get_if<nn::QuantizedTensor>(&value)) {
    const uint8_t* data = codes->codes().const_data_ptr<uint8_t>();
    result.codes.assign(data, data + codes->codes().numel());
  } else {
    const at::Tensor values = autograd::kernel_layout(std::get<at::Tensor>(value));
    result.values.assign(values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel());
  }
  return result;
}

}  // namespace

judges::Simulation simulate(graph::GraphModule& net, const integer::IntegerModel& file_model) {
  QAT_CHECK(net.phase() == nn::Phase::kLive || net.phase() == nn::Phase::kFrozen,
            "verify needs a quantized network: run the calibrate stage first");
  QAT_CHECK(file_model.inputs.size() == 1, "expected a model of one input, found {}", file_model.inputs.size());
  const std::vector<int64_t>& sizes = file_model.tensors[file_model.inputs[0]].shape;
  const auto& net_sizes = net.steps().front().sizes;
  QAT_CHECK(net_sizes == sizes, "the file's model takes images [{}], the run's takes [{}]: another network",
            fmt::join(sizes, ", "), fmt::join(net_sizes, ", "));
  return [&net, sizes](const judges::VerifyBatch& batch) {
    const EvaluationMode mode(net);
    const at::NoGradGuard no_grad;
    const int64_t c = sizes.at(0), h = sizes.at(1), w = sizes.at(2);
    const at::Tensor nhwc = at::from_blob(const_cast<float*>(batch.images), {batch.size, h, w, c}, at::kFloat);
    const std::string& input_layer = net.steps().front().layer->label();
    judges::Simulated simulated;
    const at::Tensor output =
        net.forward(nhwc.permute({0, 3, 1, 2}), [&](const nn::QLayer& layer, const nn::Value& value) {
          if (layer.is_identity_in_evaluation()) return;
          const std::string name = layer.label() == input_layer ? input_layer + ".codes" : layer.label();
          simulated.tensors[name] = value_of(value, batch.size);
        });
    simulated.output = value_of(output, batch.size);
    return simulated;
  };
}

judges::VerifyResult verify(graph::GraphModule& net, const integer::IntegerModel& file_model,
                            const judges::BatchSource& batches) {
  std::vector<std::unique_ptr<judges::Judge>> engine;
  engine.push_back(std::make_unique<judges::EngineJudge>(file_model));
  return judges::verify(simulate(net, file_model), file_model, engine, batches);
}

}  // namespace qat::simulation
