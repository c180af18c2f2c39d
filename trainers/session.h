// Session: everything that an experiment names, built: data, network, graph and quantizers.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/graph/graph_module.h"
#include "core/integer/integer_model.h"
#include "core/io/checkpoint.h"
#include "datasets/data_config.h"
#include "models/model.h"
#include "trainers/experiment.h"

namespace qat::trainers {

/// Set by a signal handler: the loops below end with Interrupted at the next batch.
using StopFlag = const std::atomic<bool>*;

struct Session {
  Experiment experiment;
  datasets::DatasetPair data;
  datasets::TransformPair transforms;
  models::Model model;
  graph::Graph graph;  // canonical
  std::vector<std::string> pass_report;
  std::shared_ptr<graph::GraphModule> net;  // null without a quantization section
  graph::InsertReport quantizers;

  /// Sets the number of threads, seeds LibTorch's generator for the initial weights, and builds all parts, so that a
  /// mistake shows before anything is trained. Throws what the parts throw (GraphError for a network that cannot
  /// run on the images), and ConfigError for one with too few outputs for the classes.
  explicit Session(const Experiment& experiment);

  /// Builds `net` anew on the same parameters, with fresh quantizers of these widths instead of the section's own (0:
  /// that one).
  void requantize(int64_t weight_bits, int64_t activation_bits);

  /// Parameters and buffers of network and quantizers: the tensors themselves.
  io::TensorMap state() const;
  /// Trainable parameters by name.
  std::vector<std::pair<std::string, at::Tensor>> parameters() const;
  /// Bytes of the float32 parameters.
  uint64_t parameter_bytes() const;
  int64_t parameter_count() const;
  integer::Preprocessing preprocessing() const;

  /// Takes the weights that `model.weights` names (.pth, .safetensors, or a run folder's last checkpoint). Files older
  /// than batch norm's counter num_batches_tracked may lack it.
  /// Throws FileError, or CheckpointError listing everything that does not fit.
  void load_weights(const WeightsConfig& weights);
};

/// NCHW float32 tensor in channels-last memory, and its labels. A copy: the loader reuses its memory.
struct TensorBatch {
  at::Tensor images;
  at::Tensor labels;
};
TensorBatch to_tensors(const datasets::Batch& batch, const datasets::Shape& shape);

/// A loader over the evaluation split; `samples` limits it.
std::unique_ptr<datasets::Loader> eval_loader(const Session& session, std::optional<int64_t> samples = std::nullopt);

}  // namespace qat::trainers
