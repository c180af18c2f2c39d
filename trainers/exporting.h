// The stages that leave the network as it is: export and verify.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/judges/verify.h"
#include "trainers/session.h"

namespace qat::trainers {

/// Lowers the network and writes it; returns the file's bytes. The session's phase must be live or frozen.
/// Throws ExportError or FileError.
uint64_t export_model(const Session& session, const std::string& format, const std::string& path);

/// Reads an exported file back and compares it with the session's network on the first `samples` of the evaluation
/// split (all when absent). Throws FileError for the file, Interrupted when `stop` is set.
judges::VerifyResult verify_model(Session& session, const std::string& path, std::optional<int64_t> samples,
                                  StopFlag stop = nullptr);

/// "3 of 120 values differ: conv1 2 of 40 (by 1 at most), ...; not compared: ...".
std::string describe_failure(const judges::VerifyResult& result);

}  // namespace qat::trainers
