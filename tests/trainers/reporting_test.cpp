#include "trainers/reporting.h"

#include <ATen/ops/max.h>
#include <ATen/ops/min.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/files.h"
#include "core/log/metrics.h"
#include "tests/support/events.h"
#include "trainers/layer_reports.h"
#include "trainers/opened_run.h"
#include "trainers/run.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kConfig = R"(seed: 5
threads: 1
data:
  dataset: {name: synthetic, train_samples: 96, eval_samples: 40}
  batch_size: 16
  workers: 1
  train: [{normalize: {mean: [0.5], std: [0.25]}}]
  eval: [{normalize: {mean: [0.5], std: [0.25]}}]
model: {name: lenet5, in_channels: 1}
quantization:
  weight: {quantizer: minmax, bits: 4}
  calibration: {batches: 2}
stages:
  - float: {epochs: 2}
  - calibrate
  - finetune: {epochs: 1}
  - export: [{format: safetensors}]
  - verify
checkpoint: {every: 4}
)";

struct Killed {};

class Reporting : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/qat_reporting_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write_file_atomic(folder_ + "/small.yaml", kConfig);
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainRequest request(const std::string& name, bool resume = false) const {
    TrainRequest r;
    r.config = folder_ + "/small.yaml";
    r.out = folder_ + "/" + name;
    r.resume = resume;
    return r;
  }

  std::string folder_;
};

/// An event's step and what it says: "eval/top1 0.5", "weights/conv1 832 values".
using Events = std::vector<std::pair<int64_t, std::vector<std::string>>>;

/// As a viewer reads the folder: a file that begins at a step takes all later ones of the files before it back.
Events events_of(const std::string& folder) {
  Events events;
  std::vector<std::string> files;
  for (const auto& file : fs::directory_iterator(folder)) files.push_back(file.path());
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) {
    for (const std::string& record : test::records_of(file)) {
      const test::Fields event = test::fields_of(record);
      if (event.count(5) == 0) continue;
      events.emplace_back(test::step_of(event), std::vector<std::string>());
      const test::Fields summary = test::fields_of(test::field(event, 5));
      for (auto [value, end] = summary.equal_range(1); value != end; ++value) {
        const test::Fields fields = test::fields_of(value->second);
        events.back().second.push_back(
            test::field(fields, 1) +
            (fields.count(2) == 1 ? fmt::format(" {}", test::number_at<float>(test::field(fields, 2), 0))
                                  : fmt::format(" {} values", test::real(test::fields_of(test::field(fields, 5)), 3))));
      }
    }
  }
  return events;
}

TEST_F(Reporting, TensorBoardGetsEveryLineOfTheMetrics) {
  train(request("run"));
  const auto lines = log::read_metrics(folder_ + "/run/metrics.jsonl");
  const Events events = events_of(folder_ + "/run/events");
  ASSERT_EQ(events.size(), lines.size());
  // 6 steps an epoch; the stages count on.
  EXPECT_EQ(events.back().first, 18);
  bool after_tuning = false;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (!lines[i].contains("eval_top1")) continue;
    EXPECT_THAT(events[i].second, testing::Contains(fmt::format("eval/top1 {}", lines[i]["eval_top1"].get<float>())));
    EXPECT_THAT(events[i].second, testing::Contains(fmt::format("eval/loss {}", lines[i]["eval_loss"].get<float>())));
    EXPECT_THAT(events[i].second, testing::Contains("weights/conv1 800 values"));  // 32 x 1 x 5 x 5
    if (lines[i]["kind"] != "finetune") continue;
    after_tuning = true;
    EXPECT_THAT(events[i].second, testing::Contains("weight_scales/conv1 32 values"));
    EXPECT_THAT(events[i].second, testing::Contains("activation_scales 4 values"));  // input, conv1, conv2, fc1
    EXPECT_THAT(events[i].second, testing::Contains(testing::StartsWith("activation_max/conv1 ")));
  }
  EXPECT_TRUE(after_tuning);
}

TEST_F(Reporting, AKilledRunsEventsAreThoseOfAWholeOne) {
  train(request("whole"));
  TrainRequest part = request("part");
  for (const auto& kill : std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {0, 11}, {2, 2}, {2, 5}}) {
    part.on_step = [&](int64_t stage, int64_t step) {
      if (std::pair(stage, step) == kill) throw Killed();
    };
    EXPECT_THROW(train(part), Killed);
    part.resume = true;
  }
  part.on_step = nullptr;
  train(part);
  EXPECT_EQ(events_of(folder_ + "/part/events"), events_of(folder_ + "/whole/events"));
}

TEST_F(Reporting, AFolderThatCannotBeWrittenCostsTheEventsOnly) {
  fs::create_directories(folder_ + "/run");
  TrainRequest r = request("run", /*resume=*/true);
  write_file_atomic(folder_ + "/run/events", "a file is in the way");
  EXPECT_EQ(train(r).mismatches, 0);
  EXPECT_EQ(read_file(folder_ + "/run/events"), "a file is in the way");
}

TEST_F(Reporting, LayersAreMeasuredOnTheirOwnGrids) {
  train(request("run"));
  OpenedRun run = open_run(folder_ + "/run", "last");
  const nn::Phase phase = run.session.net->phase();
  const std::vector<report::LayerReport> layers = layer_reports(run.session);
  EXPECT_EQ(run.session.net->phase(), phase);
  const auto found = std::find_if(layers.begin(), layers.end(), [](const auto& layer) { return layer.name == "fc1"; });
  ASSERT_NE(found, layers.end());
  ASSERT_TRUE(found->weight && found->output);
  const report::TensorReport& weight = *found->weight;
  EXPECT_EQ(weight.bits, 4);
  EXPECT_EQ(weight.how, "per channel");
  EXPECT_EQ(weight.clipped, 0);  // the range is that of the weights

  // The grid once more, by its definition: s = max |w| / 7.5 of each row, codes -8 to 7.
  const at::Tensor w = run.session.model.module->named_parameters()["fc1.weight"].detach().to(at::kDouble);
  double power = 0, noise = 0, counted = 0;
  for (const double count : weight.histogram.counts) counted += count;
  EXPECT_EQ(counted, static_cast<double>(w.numel()));
  for (const auto& step : run.session.net->steps()) {
    if (step.layer->label() != "fc1") continue;
    const at::Tensor scale = step.layer->weight_quantizer()->qparams().scale.to(at::kDouble);
    for (int64_t row = 0; row < w.size(0); ++row) {
      const double s = scale.numel() > 1 ? scale[row].item<double>() : scale.item<double>();
      for (int64_t i = 0; i < w.size(1); ++i) {
        const double x = w[row][i].item<double>();
        const double q = s * std::clamp(std::nearbyint(x / s), -8.0, 7.0);
        power += x * x;
        noise += (x - q) * (x - q);
      }
    }
  }
  EXPECT_NEAR(weight.sqnr_db, 10 * std::log10(power / noise), 0.01);
  EXPECT_EQ(weight.range.min, w.min().item<double>());
  EXPECT_EQ(weight.range.max, w.max().item<double>());
  EXPECT_TRUE(weight.in_steps);

  EXPECT_EQ(found->output->how, "unsigned");
  EXPECT_EQ(found->output->range.lowest, 0);
  ASSERT_TRUE(found->output->accumulated_db);
  // What the layers before lost is added to what this one loses.
  EXPECT_LT(*found->output->accumulated_db, found->output->sqnr_db);
  EXPECT_GT(*found->output->accumulated_db, 0);
}

TEST_F(Reporting, OnePageShowsFinishedAndUnfinishedRuns) {
  const TrainSummary summary = train(request("done"));
  TrainRequest part = request("part");
  part.on_step = [](int64_t, int64_t step) {
    if (step == 7) throw Killed();
  };
  EXPECT_THROW(train(part), Killed);
  const std::string out = folder_ + "/page.html";
  const uint64_t bytes = write_report({folder_ + "/done", folder_ + "/part"}, out, 20);
  EXPECT_EQ(bytes, fs::file_size(out));
  const std::string page = read_file(out);
  EXPECT_THAT(page, HasSubstr(fmt::format("{:.2f} %", 100 * summary.rows.back().top1)));
  EXPECT_THAT(page, HasSubstr("fine-tuned (simulated)"));
  // 6 steps an epoch, whose end writes a checkpoint.
  EXPECT_THAT(page, HasSubstr("The run is not finished: stage 1 (float) of 5, step 6."));
  EXPECT_THAT(page, HasSubstr("not quantized yet"));
  EXPECT_THAT(page, HasSubstr("data:image/png;base64,"));
  EXPECT_THAT(page, Not(HasSubstr("\"nan")));
  EXPECT_THROW(write_report({folder_}, out, 20), UsageError);
  EXPECT_THROW(write_report({}, out, 20), UsageError);
  EXPECT_THROW(write_report({folder_ + "/done"}, folder_ + "/absent/page.html", 20), FileError);
}

}  // namespace
}  // namespace qat::trainers
