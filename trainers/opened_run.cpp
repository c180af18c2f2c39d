#include "trainers/opened_run.h"

#include <filesystem>
#include <utility>

#include "trainers/stages.h"

namespace qat::trainers {

std::vector<std::string> target_override(const std::optional<std::string>& target) {
  return target ? std::vector<std::string>{"quantization.target=" + *target} : std::vector<std::string>{};
}

OpenedRun open_run(const std::string& path, const std::string& checkpoint, const std::optional<std::string>& target) {
  const RunFolder folder(path);
  folder.require_run();
  const std::string file = folder.checkpoint(checkpoint);
  QAT_CHECK_AS(FileError, std::filesystem::exists(file), "{}: there is no such checkpoint{}", file,
               checkpoint == "last" ? "; train the run first" : "");
  OpenedRun run{Session(load_experiment(folder.config(), target_override(target))), {}};
  RunCheckpoint loaded = read_checkpoint(file);
  restore(run.session, loaded, file);
  run.state = std::move(loaded.state);
  return run;
}

}  // namespace qat::trainers
