// A run folder on disk: config.yaml, metrics.jsonl, log.txt, checkpoints/{last,best}.ckpt, export/; and the state that
// a checkpoint holds beside tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/io/checkpoint.h"
#include "trainers/run.h"

namespace qat::trainers {

/// Where a run is, as stored with the tensors.
struct RunState {
  int64_t stage = 0;                             // index of the stage in progress; the number of stages: finished
  int64_t step = 0;                              // optimizer steps done in it
  int64_t evaluated = 0;                         // the step up to which epochs have been evaluated and reported
  std::string phase = "float";                   // float | live | frozen: how the tensors are meant
  int64_t weight_bits = 0, activation_bits = 0;  // of quantization.schedule.bits; 0: the section's own
  double loss_sum = 0;                           // of the epoch in progress
  int64_t correct = 0;
  int64_t samples = 0;
  double best_top1 = -1;  // of the stage in progress
  int64_t threads = 0;
  uint64_t metrics_bytes = 0;
  std::vector<TableRow> rows;
  std::vector<std::string> exports;        // files relative to the run folder
  int64_t verified = -1, mismatches = -1;  // values compared by verify; -1: not yet
};

struct RunCheckpoint {
  RunState state;
  io::TensorMap tensors;    // of the network
  io::TensorMap optimizer;  // "<parameter>.<what>"
};

class RunFolder {
 public:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config.yaml"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string log() const { return path_ + "/log.txt"; }
  std::string last() const { return path_ + "/checkpoints/last.ckpt"; }
  std::string best() const { return path_ + "/checkpoints/best.ckpt"; }
  std::string exports() const { return path_ + "/export"; }

  /// Whether there is anything at the path.
  bool exists() const;
  /// Whether it holds a run's config. Throws UsageError by require_run() where it must.
  bool is_run() const;
  void require_run() const;

  /// Creates the folders and removes what a killed process left half written. Throws FileError.
  void prepare() const;

  /// "last", "best" or a file.
  std::string checkpoint(const std::string& name) const;

 private:
  std::string path_;
};

/// Keeps a second process from writing to the same run; released when the object, or the process, ends.
class RunLock {
 public:
  /// Throws UsageError when another process holds it.
  explicit RunLock(const std::string& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int file_ = -1;
};

void write_checkpoint(const std::string& path, const RunCheckpoint& checkpoint);

/// Throws FileError, or CheckpointError for a file that is not a checkpoint of this format.
RunCheckpoint read_checkpoint(const std::string& path);

}  // namespace qat::trainers
