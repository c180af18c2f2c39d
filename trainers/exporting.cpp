#include "trainers/exporting.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "core/base/files.h"
#include "core/base/text.h"
#include "core/export/export.h"
#include "core/export/golden.h"
#include "core/export/onnx.h"
#include "core/integer/pixels.h"
#include "core/judges/opencv.h"
#include "core/log/log.h"
#include "core/log/progress.h"
#include "core/lower/lower.h"
#include "core/simulation/simulation.h"
#include "trainers/run.h"

namespace qat::trainers {

uint64_t export_model(const Session& session, const std::string& format, const std::string& path,
                      const std::string& input) {
  QAT_CHECK(session.net && session.net->phase() != nn::Phase::kFloat,
            "the network is not quantized yet: an export needs a calibrate stage before it");
  integer::IntegerModel model = lower::lower(*session.net, session.preprocessing());
  if (input == kPixelInput) model = integer::with_pixel_input(std::move(model));
  exporter::formats().get(format).write(model, path);
  return std::filesystem::file_size(path);
}

uint64_t export_golden(const Session& session, const std::string& folder, int64_t samples) {
  QAT_CHECK(session.net && session.net->phase() != nn::Phase::kFloat,
            "the network is not quantized yet: an export needs a calibrate stage before it");
  const auto loader = eval_loader(session, samples);
  engine::Value images;
  datasets::Batch batch;
  loader->start_epoch(0);
  while (loader->next(batch)) {
    images.batch += batch.size;
    images.values.insert(images.values.end(), batch.images.begin(), batch.images.end());
  }
  exporter::write_golden(lower::lower(*session.net, session.preprocessing()), images, folder);
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) bytes += entry.file_size();
  return bytes;
}

const std::vector<std::string>& judge_names() {
  static const std::vector<std::string> names = {"engine", "onnxruntime", "opencv"};
  return names;
}

Verification verify_model(Session& session, const std::string& path, std::optional<int64_t> samples, StopFlag stop) {
  QAT_CHECK(session.net && session.net->phase() != nn::Phase::kFloat,
            "the network is not quantized yet: there is nothing to verify");
  const integer::IntegerModel model = exporter::format_of(path).read(path);
  Verification verification;
  std::vector<std::unique_ptr<judges::Judge>> all;
  all.push_back(std::make_unique<judges::EngineJudge>(model));
  std::optional<judges::OnnxRuntime> runtime;
  const bool is_onnx = path.ends_with(".onnx");
  const std::string bytes = is_onnx ? read_file(path) : std::string();
  if (const auto library = judges::OnnxRuntime::find(); library && is_onnx) {
    runtime.emplace(*library);
    if (const std::string reason = judges::obstacle(*runtime, model); reason.empty()) {
      all.push_back(std::make_unique<judges::OnnxRuntimeJudge>(*runtime, bytes, model));
      verification.onnxruntime = {.version = runtime->version()};
    } else {
      verification.not_run.push_back("onnxruntime: " + reason);
    }
  }
  if (is_onnx && exporter::onnx_format(bytes, path) == "onnx-qoperator") {
    all.push_back(std::make_unique<judges::OpenCvJudge>(bytes, model));
  }

  const auto loader = eval_loader(session, samples);
  log::Progress progress(loader->samples());
  datasets::Batch batch;
  int64_t done = 0;
  loader->start_epoch(0);
  verification.result =
      judges::verify(simulation::simulate(*session.net, model), model, all, [&](judges::VerifyBatch& out) {
        if (done > 0) progress.update(done, [] { return std::string("verify"); });
        if (stop && *stop) throw Interrupted("stopped during verify");
        if (!loader->next(batch)) return false;
        out = {batch.size, batch.images.data(), batch.labels.data()};
        if (done == 0 && verification.onnxruntime && judges::session_of(model) != judges::SessionKind::kDefault) {
          constexpr int64_t kSamples = 8;
          const engine::Value few = judges::input_value(model, std::min(kSamples, batch.size), batch.images.data());
          verification.onnxruntime->default_session = judges::try_default_session(*runtime, bytes, model, {few});
        }
        done += batch.size;
        return true;
      });
  return verification;
}

std::string describe_failure(const judges::VerifyResult& result) {
  std::vector<std::string> tensors;
  for (const judges::JudgeResult& judge : result.judges) {
    for (const judges::TensorResult& tensor : judge.tensors) {
      if (tensor.mismatches == 0) continue;
      std::string text = fmt::format("{} {} of {} by {} (by {} at most", tensor.name, tensor.mismatches,
                                     tensor.compared, judge.name, tensor.max_difference);
      if (tensor.first) {
        text += fmt::format("; at [{}] {} for {}", fmt::join(tensor.first->index, ", "), tensor.first->found,
                            tensor.first->expected);
        if (tensor.first->accumulator) text += fmt::format(", accumulator {}", *tensor.first->accumulator);
      }
      tensors.push_back(text + ")");
    }
  }
  std::string text = fmt::format("{} of {} values differ", result.mismatches, result.compared);
  if (!tensors.empty()) text += ": " + join(tensors);
  if (!result.skipped.empty()) text += "; not compared: " + join(result.skipped);
  for (const judges::JudgeResult& judge : result.judges) {
    if (!judge.float_nodes.empty())
      text += fmt::format("; {} computes in float: {}", judge.name, join(judge.float_nodes));
  }
  return text;
}

}  // namespace qat::trainers
