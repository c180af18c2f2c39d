#include "core/judges/verify.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>

#include "core/base/error.h"
#include "core/engine/engine.h"

namespace qat::judges {
namespace {

/// A layer's output in the simulation: NHWC (or [N, F]).
struct Simulated {
  std::vector<uint8_t> codes;
  std::vector<float> values;
};

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

int64_t count_correct(const float* logits, int64_t samples, int64_t classes, const int64_t* labels) {
  int64_t correct = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const float* row = logits + i * classes;
    correct += std::max_element(row, row + classes) - row == labels[i];
  }
  return correct;
}

void compare(const Simulated& expected, const engine::Value& found, bool is_signed, TensorResult& result) {
  const auto count = [&](auto difference, size_t n, size_t m) {
    result.compared += static_cast<int64_t>(std::max(n, m));
    result.mismatches += static_cast<int64_t>(std::max(n, m) - std::min(n, m));
    for (size_t i = 0; i < std::min(n, m); ++i) {
      const double d = difference(i);
      if (d == 0) continue;
      ++result.mismatches;
      result.max_difference = std::max(result.max_difference, d);
    }
  };
  count(
      [&](size_t i) {
        const int a = is_signed ? static_cast<int8_t>(expected.codes[i]) : expected.codes[i];
        const int b = is_signed ? static_cast<int8_t>(found.codes[i]) : found.codes[i];
        return std::abs(static_cast<double>(a - b));
      },
      expected.codes.size(), found.codes.size());
  count(
      [&](size_t i) {
        const float a = expected.values[i], b = found.values[i];
        if (std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b)) return 0.0;
        const double d = std::abs(static_cast<double>(a) - static_cast<double>(b));
        return d > 0 ? d : std::numeric_limits<double>::denorm_min();  // -0.0 against 0.0, or NaN
      },
      expected.values.size(), found.values.size());
}

}  // namespace

VerifyResult verify(graph::GraphModule& net, const integer::IntegerModel& file_model, const BatchSource& batches) {
  QAT_CHECK(net.phase() == nn::Phase::kLive || net.phase() == nn::Phase::kFrozen,
            "verify needs a quantized network: run the calibrate stage first");
  const engine::Engine engine(file_model);
  const integer::IntegerModel& model = engine.model();
  QAT_CHECK(model.inputs.size() == 1 && model.outputs.size() == 1, "verify needs a model of one input and one output");
  const integer::Tensor& input = model.tensors[model.inputs[0]];
  QAT_CHECK(input.shape.size() == 3, "the model's input '{}' is not an image", input.name);
  const auto& net_input = net.steps().front().sizes;
  QAT_CHECK(net_input == input.shape, "the file's model takes images [{}], the run's takes [{}]: another network",
            fmt::join(input.shape, ", "), fmt::join(net_input, ", "));

  // The simulation's names for the model's tensors.
  const std::string& input_layer = net.steps().front().layer->label();
  const auto tensor_name = [&](const nn::QLayer& layer) {
    return layer.label() == input_layer ? input_layer + ".codes" : layer.label();
  };

  VerifyResult result;
  JudgeResult judge{.name = "engine"};
  std::map<std::string, TensorResult> tensors;
  std::set<std::string> only_simulated, only_file;
  const EvaluationMode mode(net);
  const at::NoGradGuard no_grad;

  VerifyBatch batch;
  while (batches(batch)) {
    QAT_CHECK(batch.size > 0 && batch.images != nullptr && batch.labels != nullptr, "verify was given an empty batch");
    const int64_t c = input.shape[0], h = input.shape[1], w = input.shape[2];
    const at::Tensor nhwc = at::from_blob(const_cast<float*>(batch.images), {batch.size, h, w, c}, at::kFloat);
    std::map<std::string, Simulated> simulated;
    const at::Tensor logits =
        net.forward(nhwc.permute({0, 3, 1, 2}), [&](const nn::QLayer& layer, const nn::Value& value) {
          if (layer.type() == "dropout") return;  // the identity here
          Simulated& kept = simulated[tensor_name(layer)];
          if (const auto* codes = std::get_if<nn::QuantizedTensor>(&value)) {
            const uint8_t* data = codes->codes().const_data_ptr<uint8_t>();
            kept.codes.assign(data, data + codes->codes().numel());
          } else {
            const at::Tensor values = autograd::kernel_layout(std::get<at::Tensor>(value));
            kept.values.assign(values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel());
          }
        });
    const at::Tensor flat = logits.contiguous();
    result.simulated_top1 +=
        count_correct(flat.const_data_ptr<float>(), batch.size, flat.numel() / batch.size, batch.labels);

    engine::Value image{.batch = batch.size};
    image.values.assign(batch.images, batch.images + batch.size * h * w * c);
    std::set<std::string> seen;
    const auto observe = [&](int index, const engine::Value& value) {
      const integer::Tensor& tensor = model.tensors[index];
      if (index == model.inputs[0]) return;  // given, not computed
      seen.insert(tensor.name);
      const auto found = simulated.find(tensor.name);
      if (found == simulated.end()) {
        // The dequantized output has no layer of its own: the simulation's result is compared below.
        if (index != model.outputs[0]) only_file.insert(tensor.name);
        return;
      }
      TensorResult& entry = tensors[tensor.name];
      entry.name = tensor.name;
      compare(found->second, value, tensor.type == integer::CodeType::kInt8, entry);
    };
    const std::vector<engine::Value> outputs = engine.run({image}, observe);
    const std::string& output_name = model.tensors[model.outputs[0]].name;
    if (simulated.count(output_name) == 0) {
      Simulated expected;
      const at::Tensor values = autograd::kernel_layout(logits);
      expected.values.assign(values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel());
      tensors[output_name].name = output_name;
      compare(expected, outputs[0], false, tensors[output_name]);
    }
    for (const auto& [name, value] : simulated) {
      if (seen.count(name) == 0) only_simulated.insert(name);
    }
    result.integer_top1 += count_correct(outputs[0].values.data(), batch.size,
                                         static_cast<int64_t>(outputs[0].values.size()) / batch.size, batch.labels);
    result.samples += batch.size;
  }
  for (const integer::Node& node : model.nodes) {
    const auto found = tensors.find(model.tensors[node.output].name);
    if (found == tensors.end()) continue;
    judge.compared += found->second.compared;
    judge.mismatches += found->second.mismatches;
    judge.tensors.push_back(found->second);
  }
  result.compared = judge.compared;
  result.mismatches = judge.mismatches;
  for (const std::string& name : only_simulated) result.skipped.push_back(name + " (not in the file)");
  for (const std::string& name : only_file) result.skipped.push_back(name + " (not in the simulation)");
  result.judges.push_back(std::move(judge));
  return result;
}

}  // namespace qat::judges
