#include "trainers/bench.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "core/base/error.h"
#include "core/base/files.h"

namespace qat::trainers {
namespace {

using Json = nlohmann::ordered_json;

std::string small_config() {
  const std::string path = testing::TempDir() + "/qat_bench.yaml";
  write_file_atomic(path, R"(
threads: 1
data:
  dataset: {name: synthetic, num_classes: 4, channels: 3, height: 16, width: 16, train_samples: 32, eval_samples: 8}
  batch_size: 8
model: {name: resnet20, num_classes: 4, width: 8}
quantization:
  weight: {quantizer: minmax, bits: 8, granularity: channel}
  activation: {quantizer: minmax, bits: 8}
  calibration: {batches: 2}
stages:
  - calibrate
  - finetune: {optimizer: {name: sgd, lr: 0.01, momentum: 0.9}}
)");
  return path;
}

Json bench(const std::string& change, bool frozen = false) {
  return step_bench(
      {.config = small_config(), .overrides = {change}, .threads = 1, .steps = 2, .isa = "", .frozen = frozen});
}

TEST(StepBench, HasTheKeysThatScriptsRelyOn) {
  const Json r = bench("quantization.memory=compact");
  for (const char* key :
       {"float_ms", "quantized_ms", "ratio", "float_saved_bytes", "quantized_saved_bytes", "saved_ratio"}) {
    ASSERT_TRUE(r.contains(key)) << key;
    EXPECT_GT(r[key].get<double>(), 0.0) << key;
  }
  EXPECT_DOUBLE_EQ(r["ratio"].get<double>(), r["quantized_ms"].get<double>() / r["float_ms"].get<double>());
  EXPECT_TRUE(r["quantized"]["passes"].contains("convolution"));
}

/// The bytes by hand. A float network keeps 8 a value of every batch norm with ReLU (its input and output), the
/// quantized one 1 for codes, 1/8 for masks and 4, 2 or 0 for batch norm's input.
TEST(StepBench, SavedBytesFollowTheMemoryMode) {
  const auto saved = [](const Json& r) { return r["quantized_saved_bytes"].get<double>(); };
  const Json exact = bench("quantization.memory=exact"), compact = bench("quantization.memory=compact"),
             recompute = bench("quantization.memory=recompute");
  // 16x16: stem and six convolutions of 8 channels; 8x8 and 4x4: six of 16 and of 32, and a shortcut each.
  const double values = 8.0 * (7 * 256 * 8 + 7 * 64 * 16 + 7 * 16 * 32);
  const double ranges = 8.0 * (7 * 8 + 7 * 16 + 7 * 32);  // middle and step of a channel
  EXPECT_EQ(saved(exact) - saved(compact), 2 * values - ranges);
  EXPECT_EQ(saved(compact) - saved(recompute), 2 * values + ranges);
  // Of the faster layout's step: the two differ by a percent.
  EXPECT_NEAR(exact["float_saved_bytes"].get<double>(), 8 * values, 0.05 * 8 * values);
  EXPECT_LT(saved(recompute), 2 * values) << "weights or accumulators are kept";
}

TEST(StepBench, AFrozenStepKeepsNoBatchNormInput) {
  const double frozen = bench("quantization.memory=compact", true)["quantized_saved_bytes"].get<double>();
  const double recompute = bench("quantization.memory=recompute")["quantized_saved_bytes"].get<double>();
  EXPECT_NEAR(frozen, recompute, 0.02 * recompute);
}

TEST(StepBench, RefusesWhatItCannotMeasure) {
  EXPECT_THROW(bench("stages=[float]"), ConfigError);
  EXPECT_THROW(step_memory({.config = small_config(), .overrides = {}, .isa = ""}, "both"), UsageError);
}

}  // namespace
}  // namespace qat::trainers
