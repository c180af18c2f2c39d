// The stages that leave the network as it is: export and verify.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/judges/onnxruntime.h"
#include "core/judges/verify.h"
#include "trainers/session.h"

namespace qat::trainers {

/// Lowers the network and writes it; returns the file's bytes. The session's phase must be live or frozen.
/// Throws ExportError or FileError.
uint64_t export_model(const Session& session, const std::string& format, const std::string& path,
                      const std::string& input = kFloatInput);

/// Lowers the network and writes what the engine computes for the first `samples` of the evaluation split into
/// `folder` (exporter::write_golden); returns the folder's bytes.
uint64_t export_golden(const Session& session, const std::string& folder, int64_t samples);

/// What ONNX Runtime is and does on this machine.
struct RuntimeReport {
  std::string version;
  std::optional<judges::DefaultSession> default_session;  // of a few samples; none where that is what judges
};

struct Verification {
  judges::VerifyResult result;
  std::optional<RuntimeReport> onnxruntime;  // where it was a judge
  std::vector<std::string> not_run;          // "onnxruntime: " and why it cannot judge the file on this machine
};

/// All judges that verify_model knows.
const std::vector<std::string>& judge_names();

/// Reads an exported file back and compares it with the session's network on the first `samples` of the evaluation
/// split (all when absent). Judges: the engine; ONNX Runtime for ONNX files, where its library is found
/// (judges::OnnxRuntime::find). Throws FileError for the file, Interrupted when `stop` is set.
Verification verify_model(Session& session, const std::string& path, std::optional<int64_t> samples,
                          StopFlag stop = nullptr);

/// "3 of 120 values differ: conv1 2 of 40 by onnxruntime (by 1 at most; at [0, 1, 2, 3] 7 for 8, accumulator 93), ...;
/// not compared: ...".
std::string describe_failure(const judges::VerifyResult& result);

}  // namespace qat::trainers
