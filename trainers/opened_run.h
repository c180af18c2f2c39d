// A run's folder opened by the commands that read it.
#pragma once

#include <optional>
#include <string>

#include "trainers/run_folder.h"
#include "trainers/session.h"

namespace qat::trainers {

struct OpenedRun {
  Session session;  // as the checkpoint has it
  RunState state;
};

/// checkpoint: "last", "best" or a file. target: in place of the config's quantization.target. Throws UsageError for a
/// folder that is no run, FileError where it has no such checkpoint.
OpenedRun open_run(const std::string& path, const std::string& checkpoint,
                   const std::optional<std::string>& target = std::nullopt);

/// The overrides of a config that `target` stands for.
std::vector<std::string> target_override(const std::optional<std::string>& target);

}  // namespace qat::trainers
