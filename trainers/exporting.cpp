#include "trainers/exporting.h"

#include <filesystem>
#include <vector>

#include "core/base/text.h"
#include "core/export/export.h"
#include "core/log/log.h"
#include "core/log/progress.h"
#include "core/lower/lower.h"
#include "trainers/run.h"

namespace qat::trainers {

uint64_t export_model(const Session& session, const std::string& format, const std::string& path) {
  QAT_CHECK(session.net && session.net->phase() != nn::Phase::kFloat,
            "the network is not quantized yet: an export needs a calibrate stage before it");
  exporter::formats().get(format).write(lower::lower(*session.net, session.preprocessing()), path);
  return std::filesystem::file_size(path);
}

judges::VerifyResult verify_model(Session& session, const std::string& path, std::optional<int64_t> samples,
                                  StopFlag stop) {
  QAT_CHECK(session.net && session.net->phase() != nn::Phase::kFloat,
            "the network is not quantized yet: there is nothing to verify");
  const integer::IntegerModel model = exporter::format_of(path).read(path);
  const auto loader = eval_loader(session, samples);
  session.net->eval();
  log::Progress progress(loader->samples());
  datasets::Batch batch;
  int64_t done = 0;
  loader->start_epoch(0);
  return judges::verify(*session.net, model, [&](judges::VerifyBatch& out) {
    if (done > 0) progress.update(done, [] { return std::string("verify"); });
    if (stop && *stop) throw Interrupted("stopped during verify");
    if (!loader->next(batch)) return false;
    out = {batch.size, batch.images.data(), batch.labels.data()};
    done += batch.size;
    return true;
  });
}

std::string describe_failure(const judges::VerifyResult& result) {
  std::vector<std::string> tensors;
  for (const judges::JudgeResult& judge : result.judges) {
    for (const judges::TensorResult& tensor : judge.tensors) {
      if (tensor.mismatches == 0) continue;
      tensors.push_back(fmt::format("{} {} of {} (by {} at most)", tensor.name, tensor.mismatches, tensor.compared,
                                    tensor.max_difference));
    }
  }
  std::string text = fmt::format("{} of {} values differ", result.mismatches, result.compared);
  if (!tensors.empty()) text += ": " + join(tensors);
  if (!result.skipped.empty()) text += "; not compared: " + join(result.skipped);
  return text;
}

}  // namespace qat::trainers
