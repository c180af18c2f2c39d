#include "trainers/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/error.h"
#include "core/base/files.h"

namespace qat::trainers {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TableRow, name, top1, bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunState, stage, step, evaluated, phase, weight_bits, activation_bits, loss_sum,
                                   correct, samples, best_top1, threads, metrics_bytes, rows, exports, verified,
                                   mismatches)

namespace {

namespace fs = std::filesystem;

constexpr const char* kFormatKey = "qat.checkpoint";
constexpr const char* kFormat = "1";
constexpr const char* kStateKey = "qat.state";
constexpr std::string_view kOptimizer = "optimizer.";

}  // namespace

bool RunFolder::exists() const {
  std::error_code error;
  return fs::exists(path_, error) && !(fs::is_directory(path_, error) && fs::is_empty(path_, error));
}

bool RunFolder::is_run() const {
  std::error_code error;
  return fs::exists(config(), error);
}

void RunFolder::require_run() const {
  QAT_CHECK_AS(UsageError, is_run(), "{}: not a run: expected the folder of a `qat train`, with a config.yaml", path_);
}

void RunFolder::prepare() const {
  // In the folder itself, which may hold files of others, only what write_file_atomic() made for the config.
  for (const auto& [folder, prefix] :
       {std::pair<std::string, std::string>{path_, "config.yaml"}, {path_ + "/checkpoints", ""}, {exports(), ""}}) {
    make_directories(folder);
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename();
      if (name.starts_with(prefix) && name.find(".tmp.") != std::string::npos) fs::remove(entry.path(), error);
    }
  }
}

std::string RunFolder::checkpoint(const std::string& name) const {
  if (name == "last") return last();
  if (name == "best") return best();
  return name;
}

RunLock::RunLock(const std::string& folder) : file_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (file_ < 0) throw file_error(folder, "cannot open", errno);
  if (::flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;  // a file system may have no locks
  ::close(file_);
  throw UsageError(folder + ": another process is training this run");
}

RunLock::~RunLock() { ::close(file_); }

void write_checkpoint(const std::string& path, const RunCheckpoint& checkpoint) {
  io::TensorFile file{checkpoint.tensors, {{kFormatKey, kFormat}}};
  for (const auto& [name, tensor] : checkpoint.optimizer) file.tensors.emplace(std::string(kOptimizer) + name, tensor);
  file.metadata[kStateKey] = nlohmann::json(checkpoint.state).dump();
  io::write_tensors(path, file);
}

RunCheckpoint read_checkpoint(const std::string& path) {
  io::TensorFile file = io::read_tensors(path);
  const auto format = file.metadata.find(kFormatKey);
  QAT_CHECK_AS(CheckpointError, format != file.metadata.end(), "{}: not a checkpoint of qat", path);
  QAT_CHECK_AS(CheckpointError, format->second == kFormat, "{}: checkpoint format {}, this program reads {}", path,
               format->second, kFormat);
  RunCheckpoint checkpoint;
  try {
    checkpoint.state = nlohmann::json::parse(file.metadata[kStateKey]).get<RunState>();
  } catch (const nlohmann::json::exception& error) {
    throw CheckpointError(fmt::format("{}: damaged state: {}", path, error.what()));
  }
  for (auto& [name, tensor] : file.tensors) {
    if (name.starts_with(kOptimizer)) {
      checkpoint.optimizer.emplace(name.substr(kOptimizer.size()), std::move(tensor));
    } else {
      checkpoint.tensors.emplace(name, std::move(tensor));
    }
  }
  return checkpoint;
}

}  // namespace qat::trainers
