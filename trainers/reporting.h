// `qat report`: one HTML page on one run or several. Free of LibTorch headers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qat::trainers {

/// Gathers what the run folders hold, evaluates their last checkpoints and writes core/report's page to `out`; returns
/// its bytes. `samples`: evaluation images (all when absent). A run that has no checkpoint yet is shown without what
/// needs one. Throws UsageError for a folder that is no run, FileError.
uint64_t write_report(const std::vector<std::string>& runs, const std::string& out, std::optional<int64_t> samples);

}  // namespace qat::trainers
