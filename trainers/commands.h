// What the commands beside `train` do, as JSON reports with the keys that scripts rely on. Free of LibTorch headers.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace qat::trainers {

/// A run's network on the evaluation split: {top1, top5, loss, samples, runtime}, fractions.
/// checkpoint: "last", "best" or a file; runtime: "float", "simulated", "integer", or "" for the network as the
/// checkpoint has it.
nlohmann::ordered_json eval_report(const std::string& run, const std::string& checkpoint, const std::string& runtime);

/// Writes the last checkpoint's network in a format: {format, path, bytes}. `samples` is for format "golden", whose
/// `out` is a folder. `input`: "float32" or "uint8" (exporting.h).
nlohmann::ordered_json export_report(const std::string& run, const std::string& format, const std::string& out,
                                     const std::optional<std::string>& target, std::optional<int64_t> samples,
                                     const std::string& input = "float32");

/// Compares an exported file with the last checkpoint's network: {mismatches, compared, skipped, samples, passed,
/// simulated_top1, integer_top1, judges: [{name, mismatches, compared, tensors: [{name, compared, mismatches,
/// max_difference}], float_nodes}]}; a tensor with mismatches has first: {index, expected, found, accumulator}; judge
/// onnxruntime has version and default_session: {mismatches, compared}. `passed` is false for any mismatch, any skipped
/// tensor, any node that a runtime computes in float, and any required judge that did not run (missing_judges lists
/// those).
nlohmann::ordered_json verify_report(const std::string& run, const std::string& model, std::optional<int64_t> samples,
                                     const std::vector<std::string>& required_judges);

/// A run or a config file, without training: {model, parameters, parameter_bytes, input, nodes, fusions,
/// quantized_layers, float_layers, quantizers, graph}. Exactly one of run and config is given.
nlohmann::ordered_json inspect_report(const std::string& run, const std::string& config,
                                      const std::optional<std::string>& target);

/// Loads plug-ins (core/registry/plugin.h), behind the built-in components. Throws FileError.
void load_plugins(const std::vector<std::string>& paths);

/// What a config can name.
struct CatalogueEntry {
  std::string name, description;
};
std::vector<std::string> catalogue_kinds();
/// Throws UsageError for an unknown kind.
std::vector<CatalogueEntry> catalogue(const std::string& kind);

/// "2.11.0".
std::string libtorch_version();
/// What kernels LibTorch chooses on this machine: "AVX2".
std::string cpu_capability();

/// One line for the exception being handled, whatever its type (LibTorch's without its backtrace), and the exit code
/// that belongs to it: 2 for mistakes of usage or config, 130 for a run that was stopped, 1 otherwise.
struct Failure {
  std::string message;
  int exit_code = 1;
};
Failure describe_current_exception();

}  // namespace qat::trainers
