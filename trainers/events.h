// EventLog: a run's metrics, and the distributions of its weights and ranges, for TensorBoard.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "core/log/tensorboard.h"
#include "trainers/run_folder.h"
#include "trainers/session.h"

namespace qat::trainers {

/// One event for each line of metrics.jsonl, in the same order, so that a resumed run's events are cut back as its
/// metrics are. Steps count on from stage to stage. Tags: eval/* and train/* by epoch, step/* within, and for each
/// evaluated network
///   weights/<layer>           histogram of the float weights
///   weight_scales/<layer>     histogram; weight_scale/<layer> where there is one scale
///   activation_min/<tensor>, activation_max/<tensor>   the range of the quantizer's codes
///   activation_scales         histogram over all tensors
/// Files that cannot be written cost a warning, not the run.
class EventLog {
 public:
  /// metrics.jsonl: as it is continued, cut back to the checkpoint. Both arguments must outlive the object.
  EventLog(const Session& session, const RunFolder& folder);

  /// A line just written to metrics.jsonl.
  void add(const nlohmann::ordered_json& line);

 private:
  log::Event event_of(const nlohmann::ordered_json& line);

  const Session& session_;
  int64_t stage_ = 0;
  int64_t first_step_ = 0, step_ = 0;         // of the stage, of the last line, in the count of the run
  std::unique_ptr<log::EventWriter> writer_;  // null after a failure
};

}  // namespace qat::trainers
