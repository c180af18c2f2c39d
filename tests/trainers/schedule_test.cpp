#include "trainers/schedule.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/base/error.h"
#include "core/config/config.h"

namespace qat::trainers {
namespace {

Schedule make(const std::string& name, const std::string& options) {
  return schedules().get(name).make(config::load_text(options, "s.yaml").root());
}

TEST(Schedule, Constant) {
  const Schedule schedule = make("constant", "{}");
  EXPECT_EQ(schedule({0, 10, 5}), 1.0);
  EXPECT_EQ(schedule({9, 10, 5}), 1.0);
}

TEST(Schedule, CosineByHand) {
  // cos(0) = 1, cos(pi / 3) = 1/2, cos(pi / 2) = 0, cos(2 pi / 3) = -1/2.
  const Schedule schedule = make("cosine", "{}");
  EXPECT_DOUBLE_EQ(schedule({0, 6, 3}), 1.0);
  EXPECT_DOUBLE_EQ(schedule({2, 6, 3}), 0.75);
  EXPECT_DOUBLE_EQ(schedule({3, 6, 3}), 0.5);
  EXPECT_DOUBLE_EQ(schedule({4, 6, 3}), 0.25);
}

TEST(Schedule, CosineEndsAtFinalBehindWarmup) {
  // One epoch of 4 steps warms up with 0.2, 0.4, 0.6, 0.8; then 6 steps of cosine from 1 to 0.1, half way 0.55.
  const Schedule schedule = make("cosine", "{warmup_epochs: 1, warmup_start: 0.2, final: 0.1}");
  EXPECT_DOUBLE_EQ(schedule({0, 10, 4}), 0.2);
  EXPECT_DOUBLE_EQ(schedule({3, 10, 4}), 0.8);
  EXPECT_DOUBLE_EQ(schedule({4, 10, 4}), 1.0);
  EXPECT_DOUBLE_EQ(schedule({7, 10, 4}), 0.55);
}

/// The factors of all steps of a stage.
std::vector<double> factors(const std::string& name, const std::string& options, int64_t total, int64_t per_epoch) {
  const Schedule schedule = make(name, options);
  std::vector<double> values;
  for (int64_t step = 0; step < total; ++step) values.push_back(schedule({step, total, per_epoch}));
  return values;
}

void expect_factors(const std::vector<double>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-10) << "step " << i;
}

TEST(Schedule, MultistepDropsAtEpochs) {
  const Schedule schedule = make("multistep", "{milestones: [2, 3], gamma: 0.5}");
  EXPECT_DOUBLE_EQ(schedule({19, 50, 10}), 1.0);
  EXPECT_DOUBLE_EQ(schedule({20, 50, 10}), 0.5);
  EXPECT_DOUBLE_EQ(schedule({29, 50, 10}), 0.5);
  EXPECT_DOUBLE_EQ(schedule({30, 50, 10}), 0.25);
}

TEST(Schedule, StepDropsEveryFewEpochs) {
  expect_factors(factors("step", "{step_size: 2, gamma: 0.5}", 6, 1), {1, 1, 0.5, 0.5, 0.25, 0.25});
  expect_factors(factors("step", "{step_size: 1, gamma: 0.5}", 5, 2), {1, 1, 0.5, 0.5, 0.25});
}

TEST(Schedule, ExponentialDropsEveryEpoch) {
  expect_factors(factors("exponential", "{gamma: 0.5}", 5, 2), {1, 1, 0.5, 0.5, 0.25});
}

TEST(Schedule, PolynomialByHand) {
  // (1 - t / 6)^2 = 36/36, 25/36, 16/36, 9/36, 4/36, 1/36, and the line.
  expect_factors(factors("polynomial", "{power: 2}", 6, 3), {1, 25 / 36.0, 16 / 36.0, 9 / 36.0, 4 / 36.0, 1 / 36.0});
  expect_factors(factors("polynomial", "{}", 4, 1), {1, 0.75, 0.5, 0.25});
}

TEST(Schedule, OneCycleHasTorchsNumbers) {
  // torch.optim.lr_scheduler.OneCycleLR (2.11.0), max_lr 1, total_steps 10.
  expect_factors(factors("one_cycle", "{}", 10, 5), {0.04, 0.52, 1, 0.950484632013, 0.81174565395, 0.611262021936,
                                                     0.388741978064, 0.18825834605, 0.0495193679865, 4e-06});
  expect_factors(
      factors("one_cycle", "{anneal_strategy: linear, pct_start: 0.5, div_factor: 10, final_div_factor: 100}", 10, 5),
      {0.1, 0.325, 0.55, 0.775, 1, 0.8002, 0.6004, 0.4006, 0.2008, 0.001});
}

TEST(Schedule, OneCycleOfFewSteps) {
  expect_factors(factors("one_cycle", "{}", 1, 1), {1});
  expect_factors(factors("one_cycle", "{pct_start: 0}", 2, 1), {1, 4e-06});
  // The top lies at step 2 of 0 to 2, at step 2 * 1 - 1 = 1 of 0 to 1.
  expect_factors(factors("one_cycle", "{pct_start: 1}", 3, 1), {0.04, 0.52, 1});
}

TEST(Schedule, WarmupIsTorchsLinearLr) {
  // torch.optim.lr_scheduler.LinearLR(start_factor=0.2, total_iters=4).
  expect_factors(factors("constant", "{warmup_steps: 4, warmup_start: 0.2}", 6, 3), {0.2, 0.4, 0.6, 0.8, 1, 1});
  expect_factors(factors("constant", "{warmup_epochs: 0.5, warmup_start: 0.5}", 4, 4), {0.5, 0.75, 1, 1});
}

TEST(Schedule, EveryScheduleRunsBehindItsWarmup) {
  for (const std::string& name : schedules().names()) {
    const std::string own = name == "step" ? "step_size: 1, " : name == "multistep" ? "milestones: [1], " : "";
    const std::vector<double> plain = factors(name, "{" + own + "}", 6, 2);
    const std::vector<double> warm = factors(name, "{" + own + "warmup_steps: 2, warmup_start: 0.5}", 8, 2);
    ASSERT_EQ(warm.size(), 8U);
    EXPECT_DOUBLE_EQ(warm[0], 0.5 * plain[0]) << name;
    EXPECT_DOUBLE_EQ(warm[1], 0.75 * plain[0]) << name;
    EXPECT_EQ(std::vector<double>(warm.begin() + 2, warm.end()), plain) << name;
  }
}

TEST(Schedule, WarmupLongerThanTheStage) {
  // 2 epochs of 10 steps asked for, the stage has 4: 0.2, 0.4, 0.6, 0.8, and no division by its 0 remaining steps.
  for (const char* name : {"cosine", "polynomial", "one_cycle"}) {
    const double first = name == std::string("one_cycle") ? make(name, "{}")({0, 1, 10}) : 1.0;
    const Schedule schedule = make(name, "{warmup_epochs: 2, warmup_start: 0.2}");
    EXPECT_DOUBLE_EQ(schedule({0, 4, 10}), 0.2 * first) << name;
    EXPECT_DOUBLE_EQ(schedule({3, 4, 10}), 0.8 * first) << name;
  }
}

TEST(Schedule, UnknownOptionsAreRefused) {
  try {
    make("cosine", "{finale: 1}");
    FAIL() << "expected a ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "s.yaml:1:2: finale: unknown key (did you mean 'final'?); valid keys: final, warmup_epochs, "
                 "warmup_steps, warmup_start");
  }
}

TEST(Schedule, ErrorsNameThePlace) {
  const auto complaint = [](const std::string& name, const std::string& options) {
    try {
      make(name, options);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("no ConfigError");
  };
  EXPECT_EQ(complaint("constant", "{warmup_steps: 1, warmup_epochs: 1}"),
            "s.yaml:1:1: expected either warmup_epochs or warmup_steps");
  EXPECT_EQ(complaint("constant", "{warmup_start: 0}"),
            "s.yaml:1:16: warmup_start: 0 is out of bounds: expected > 0, <= 1");
  EXPECT_EQ(complaint("step", "{}"), "s.yaml:1:1: missing key 'step_size'");
  EXPECT_EQ(complaint("multistep", "{}"), "s.yaml:1:1: missing key 'milestones'");
}

}  // namespace
}  // namespace qat::trainers
