#include "trainers/inference_bench.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/engine/engine.h"
#include "core/engine/layout.h"
#include "core/export/export.h"
#include "core/export/fingerprint.h"
#include "core/export/onnx.h"
#include "core/judges/onnxruntime.h"
#include "core/ops/targets.h"

namespace qat::trainers {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct Side {
  std::string name;
  std::function<void()> run;
  std::vector<double> ms;
};

double milliseconds(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// Milliseconds by kind of operator: the fastest of some runs.
Json operator_times(const engine::Engine& engine, const engine::Value& image, int64_t runs) {
  std::map<std::string, double> best;
  for (int64_t i = 0; i < runs; ++i) {
    std::map<std::string, double> times;
    const integer::IntegerModel& model = engine.model();
    std::vector<const integer::Node*> makers(model.tensors.size(), nullptr);
    for (const integer::Node& node : model.nodes) makers[static_cast<size_t>(node.output)] = &node;
    Clock::time_point start = Clock::now();
    engine.run({image}, [&](int tensor, const engine::Value&) {
      const integer::Node* node = makers[static_cast<size_t>(tensor)];
      if (node != nullptr) times[integer::to_string(node->op)] += milliseconds(start);
      start = Clock::now();
    });
    for (const auto& [op, ms] : times) best[op] = best.contains(op) ? std::min(best[op], ms) : ms;
  }
  return Json(best);
}

}  // namespace

Json inference_bench(const InferenceBenchRequest& request) {
  ops::limit_vector_target(request.isa);
  const integer::IntegerModel model = exporter::format_of(request.model).read(request.model);
  QAT_CHECK(model.inputs.size() == 1, "{}: expected a model of one input, found {}", request.model,
            model.inputs.size());
  const integer::Tensor& input = model.tensors[static_cast<size_t>(model.inputs[0])];
  const engine::Value sample = exporter::fixed_inputs(model)[0];
  engine::Value images{.batch = request.batch};
  for (int64_t n = 0; n < request.batch; ++n) {
    images.values.insert(images.values.end(), sample.values.begin(), sample.values.end());
    images.codes.insert(images.codes.end(), sample.codes.begin(), sample.codes.end());
  }
  const engine::Engine engine(model);
  engine::Runner runner(engine, request.batch, static_cast<int>(request.threads));
  std::vector<Side> sides;
  sides.push_back({"engine", [&] {
                     std::ranges::copy(images.values, runner.input_values().begin());
                     std::ranges::copy(images.codes, runner.input_codes().begin());
                     runner.run();
                   }});

  Json report{{"model", request.model},     {"input", input.shape}, {"batch", request.batch},
              {"threads", request.threads}, {"runs", request.runs}, {"vector_target", ops::vector_target()}};
  const engine::Value nchw = engine::to_nchw(images, input);
  std::optional<judges::OnnxRuntime> runtime;
  std::vector<std::unique_ptr<judges::OnnxSession>> sessions;
  if (const auto library = judges::OnnxRuntime::find()) {
    runtime.emplace(*library);
    report["onnxruntime_version"] = runtime->version();
    const auto output = exporter::onnx_name(model.tensors[static_cast<size_t>(model.outputs[0])]);
    const std::string quantized = exporter::onnx_for_judge(exporter::onnx_qdq(model), model, false);
    const std::string floats = exporter::onnx_float(model);
    const bool int8 =
        std::ranges::any_of(model.tensors, [](const integer::Tensor& t) { return t.type == integer::CodeType::kInt8; });
    const auto add = [&](const char* name, const std::string& bytes, judges::SessionKind kind) {
      const judges::OnnxSession& session = *sessions.emplace_back(std::make_unique<judges::OnnxSession>(
          *runtime, bytes, kind, int8, nullptr, static_cast<int>(request.threads)));
      std::vector<int64_t> shape{request.batch};
      shape.insert(shape.end(), input.shape.begin(), input.shape.end());
      sides.push_back({name, [&session, &nchw, shape, output, name = input.name] {
                         session.run({{.name = name, .shape = shape, .value = nchw}}, {output});
                       }});
    };
    add("onnxruntime", quantized, judges::session_of(model));
    add("onnxruntime_default", quantized, judges::SessionKind::kDefault);
    add("onnxruntime_float", floats, judges::SessionKind::kDefault);
  }
  constexpr int64_t kWarmUp = 3;
  for (int64_t i = -kWarmUp; i < request.runs; ++i) {
    for (Side& side : sides) {
      const Clock::time_point start = Clock::now();
      side.run();
      if (i >= 0) side.ms.push_back(milliseconds(start));
    }
  }
  for (const Side& side : sides) {
    report[side.name + "_ms"] = std::ranges::min(side.ms);
    report[side.name + "_median_ms"] = median(side.ms);
  }
  if (runtime) report["ratio"] = report["onnxruntime_ms"].get<double>() / report["engine_ms"].get<double>();
  if (request.operators) report["operators"] = operator_times(engine, images, 5);
  return report;
}

}  // namespace qat::trainers
