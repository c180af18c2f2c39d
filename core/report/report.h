// Report: what is known of training runs, as one HTML page without external resources.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/report/svg.h"

namespace qat::report {

/// A line of a run's final table.
struct Row {
  std::string name;
  double top1 = 0, top5 = 0, loss = 0;
  uint64_t bytes = 0;
  std::optional<double> latency_ms;
};

/// How one tensor is quantized, and what that does to its values.
struct TensorReport {
  std::string quantizer;  // "lsq"
  int bits = 0;
  std::string how;     // "per channel", "unsigned"
  Range range;         // of the values, and of the codes; of all channels together
  double sqnr_db = 0;  // signal to quantization noise of this tensor alone; infinite where nothing is lost
  double clipped = 0;  // share of the values outside of the codes' range
  std::optional<double> accumulated_db;  // activations: the quantized network's values against the float network's
  LevelHistogram histogram;              // of values; in steps of their scale where `in_steps`
  bool in_steps = false;
};

struct LayerReport {
  std::string name, type, sizes;  // of the output, "32 x 14 x 14"
  std::optional<TensorReport> weight, output;
  std::string note;  // why it is in float, "passes its input's codes on", ...
};

/// An evaluation image and what the network says of it.
struct Prediction {
  std::string png;  // bytes of the file
  int64_t label = 0;
  std::vector<std::pair<int64_t, double>> guesses;  // class and probability, the likeliest first
  std::string name;                                 // "sample 5", its file
};

struct RunReport {
  std::string name;                                           // short, for tables and legends
  std::string config;                                         // resolved YAML
  std::vector<std::pair<std::string, std::string>> settings;  // the config flat: "data.batch_size", "128"
  std::vector<std::pair<std::string, std::string>> facts;     // "model", "lenet5, 583818 parameters"
  std::vector<nlohmann::ordered_json> metrics;                // lines of metrics.jsonl
  std::vector<Row> rows;
  int64_t compared = -1, mismatches = -1;  // by verify; -1: not done
  std::vector<LayerReport> layers;
  std::vector<std::string> classes;
  std::vector<int64_t> confusion;  // [classes, classes], rows are true classes; empty: not evaluated
  std::vector<Prediction> mistakes, samples;
  std::vector<std::string> notes;  // what is missing, and why
};

/// The whole page.
std::string page(const std::vector<RunReport>& runs);

/// "data:image/png;base64,..." of a file's bytes.
std::string data_url(const std::string& png);

}  // namespace qat::report
