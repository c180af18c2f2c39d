// A run folder on disk: config.yaml, metrics.jsonl, timings.json, log.txt, events/, export/,
// checkpoints/{last,previous,best}.ckpt; and the state that a checkpoint holds beside tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/io/checkpoint.h"
#include "trainers/run.h"

namespace qat::trainers {

/// An evaluation of the network: fractions and the mean loss. `epoch`: that it ended, in a training stage.
struct EvaluatedEpoch {
  int64_t epoch = 0;
  double top1 = 0, top5 = 0, loss = 0;
};

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
  EvaluatedEpoch last;               // of the stage in progress
  std::vector<EvaluatedEpoch> best;  // those whose checkpoints are kept, the best first
  int64_t threads = 0;
  uint64_t metrics_bytes = 0;
  std::vector<TableRow> rows;
  std::vector<std::string> exports;        // files relative to the run folder
  int64_t verified = -1, mismatches = -1;  // values compared by verify; -1: not yet
};

struct RunCheckpoint {
  RunState state;
  std::string config;       // resolved, as config.yaml holds it
  io::TensorMap tensors;    // of the network
  io::TensorMap optimizer;  // "<parameter>.<what>"
  io::TensorMap callbacks;  // "<callback>.<what>"
};

class RunFolder {
 public:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config.yaml"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string log() const { return path_ + "/log.txt"; }
  std::string last() const { return path_ + "/checkpoints/last.ckpt"; }
  std::string previous() const { return path_ + "/checkpoints/previous.ckpt"; }  // the one before last
  std::string best() const { return path_ + "/checkpoints/best.ckpt"; }
  /// Of one of the best epochs of a stage, where several are kept.
  std::string best(int64_t stage, int64_t epoch) const;
  std::string exports() const { return path_ + "/export"; }
  std::string events() const { return path_ + "/events"; }         // TensorBoard's
  std::string timings() const { return path_ + "/timings.json"; }  // milliseconds by TableRow::name

  /// The rows with what timings() has for them.
  std::vector<TableRow> timed(std::vector<TableRow> rows) const;
  /// Notes a row's time. A file that cannot be written costs a warning, not the run.
  void write_timing(const std::string& row, double latency_ms) const;

  /// Whether there is anything at the path.
  bool exists() const;
  /// Whether it holds a run's config. Throws UsageError by require_run() where it must.
  bool is_run() const;
  void require_run() const;

  /// Creates the folders and removes what a killed process left half written. Throws FileError.
  void prepare() const;

  /// Replaces last.ckpt, which becomes previous.ckpt.
  void write_last(const RunCheckpoint& checkpoint) const;
  /// last.ckpt; where it is damaged or missing previous.ckpt, which takes its place; nothing where neither is there.
  /// For the process that holds the run's lock.
  /// Throws FileError or CheckpointError when no sound one is left.
  std::optional<RunCheckpoint> read_last() const;

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
