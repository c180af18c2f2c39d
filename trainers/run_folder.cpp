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
#include "core/log/log.h"

namespace qat::trainers {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TableRow, name, top1, top5, loss, bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EvaluatedEpoch, epoch, top1, top5, loss)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunState, stage, step, evaluated, phase, weight_bits, activation_bits, loss_sum,
                                   correct, samples, last, best, threads, metrics_bytes, rows, exports, verified,
                                   mismatches)

namespace {

namespace fs = std::filesystem;

constexpr const char* kFormatKey = "qat.checkpoint";
constexpr const char* kFormat = "3";
constexpr const char* kStateKey = "qat.state";
constexpr const char* kConfigKey = "qat.config";
constexpr std::string_view kOptimizer = "optimizer.";
constexpr std::string_view kCallback = "callback.";

void add(io::TensorMap& to, std::string_view prefix, const io::TensorMap& from) {
  for (const auto& [name, tensor] : from) to.emplace(std::string(prefix) + name, tensor);
}

bool exists_at(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

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

std::string RunFolder::best(int64_t stage, int64_t epoch) const {
  return fmt::format("{}/checkpoints/best_stage{}_epoch{}.ckpt", path_, stage, epoch);
}

void RunFolder::write_last(const RunCheckpoint& checkpoint) const {
  if (exists_at(last())) keep_file(last(), previous());
  write_checkpoint(last(), checkpoint);
}

std::optional<RunCheckpoint> RunFolder::read_last() const {
  const bool has_previous = exists_at(previous());
  if (exists_at(last())) {
    try {
      return read_checkpoint(last());
    } catch (const Error& error) {
      if (!has_previous) throw;
      log::warn("{}; going on from the checkpoint before it, {}", error.what(), previous());
    }
  }
  if (!has_previous) return std::nullopt;
  RunCheckpoint checkpoint = read_checkpoint(previous());
  keep_file(previous(), last());  // or the next write_last() would keep the damaged one
  return checkpoint;
}

std::string RunFolder::checkpoint(const std::string& name) const {
  if (name == "last") return last();
  if (name == "best") return best();
  return name;
}

std::vector<TableRow> RunFolder::timed(std::vector<TableRow> rows) const {
  if (!exists_at(timings())) return rows;
  const nlohmann::json times = nlohmann::json::parse(read_file(timings()), nullptr, /*allow_exceptions=*/false);
  for (TableRow& row : rows) {
    const auto time = times.find(row.name);
    if (time != times.end() && time->is_number()) row.latency_ms = time->get<double>();
  }
  return rows;
}

void RunFolder::write_timing(const std::string& row, double latency_ms) const {
  nlohmann::ordered_json times;
  if (exists_at(timings())) times = nlohmann::ordered_json::parse(read_file(timings()), nullptr, false);
  if (!times.is_object()) times = nlohmann::ordered_json::object();
  times[row] = latency_ms;
  try {
    write_file_atomic(timings(), times.dump(2) + "\n");
  } catch (const FileError& error) {
    log::warn("{}", error.what());
  }
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
  add(file.tensors, kOptimizer, checkpoint.optimizer);
  add(file.tensors, kCallback, checkpoint.callbacks);
  file.metadata[kStateKey] = nlohmann::json(checkpoint.state).dump();
  file.metadata[kConfigKey] = checkpoint.config;
  io::write_tensors(path, file);
}

RunCheckpoint read_checkpoint(const std::string& path) {
  io::TensorFile file = io::read_tensors(path);
  const auto format = file.metadata.find(kFormatKey);
  QAT_CHECK_AS(CheckpointError, format != file.metadata.end(), "{}: not a checkpoint of qat", path);
  QAT_CHECK_AS(CheckpointError, format->second == kFormat, "{}: checkpoint format {}, this program reads {}", path,
               format->second, kFormat);
  RunCheckpoint checkpoint;
  checkpoint.config = file.metadata[kConfigKey];
  try {
    checkpoint.state = nlohmann::json::parse(file.metadata[kStateKey]).get<RunState>();
  } catch (const nlohmann::json::exception& error) {
    throw CheckpointError(fmt::format("{}: damaged state: {}", path, error.what()));
  }
  for (auto& [name, tensor] : file.tensors) {
    if (name.starts_with(kOptimizer)) {
      checkpoint.optimizer.emplace(name.substr(kOptimizer.size()), std::move(tensor));
    } else if (name.starts_with(kCallback)) {
      checkpoint.callbacks.emplace(name.substr(kCallback.size()), std::move(tensor));
    } else {
      checkpoint.tensors.emplace(name, std::move(tensor));
    }
  }
  return checkpoint;
}

}  // namespace qat::trainers
