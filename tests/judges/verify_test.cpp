#include "core/judges/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/integer/sample_model.h"

namespace qat::judges {
namespace {

using integer::IntegerModel;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kSamples = 3;
const std::vector<float> kImages = {0, 1, -1, 100, 0, 0, 0, 0, 3, 2, 1, 0};
const std::vector<int64_t> kLabels = {0, 1, 1};

/// Two batches: of two samples, and of one.
BatchSource batches() {
  return [done = int64_t{0}](VerifyBatch& batch) mutable {
    if (done == kSamples) return false;
    batch = {.size = done == 0 ? 2 : 1, .images = kImages.data() + done * 4, .labels = kLabels.data() + done};
    done += batch.size;
    return true;
  };
}

/// What the engine computes for `model`, in place of a training's forward.
Simulation simulation(const IntegerModel& model) {
  return [model](const VerifyBatch& batch) {
    Simulated result;
    engine::Value image{.batch = batch.size, .codes = {}, .values = {}};
    image.values.assign(batch.images, batch.images + batch.size * model.tensors[0].size());
    result.output = engine::Engine(model).run({image}, [&](int index, const engine::Value& value) {
      if (index != 0) result.tensors[model.tensors[static_cast<size_t>(index)].name] = value;
    })[0];
    return result;
  };
}

std::vector<std::unique_ptr<Judge>> engine_judge(const IntegerModel& model) {
  std::vector<std::unique_ptr<Judge>> judges;
  judges.push_back(std::make_unique<EngineJudge>(model));
  return judges;
}

/// A judge that leaves a tensor out, or all.
class Forgetful : public EngineJudge {
 public:
  Forgetful(const IntegerModel& model, std::vector<int> forgotten)
      : EngineJudge(model), forgotten_(std::move(forgotten)) {}

  const std::string& name() const override {
    static const std::string kName = "forgetful";
    return kName;
  }
  void run(const std::vector<engine::Value>& inputs, const engine::Engine::Observer& observe) const override {
    EngineJudge::run(inputs, [&](int index, const engine::Value& value) {
      if (std::ranges::find(forgotten_, index) == forgotten_.end()) observe(index, value);
    });
  }

 private:
  std::vector<int> forgotten_;
};

TEST(Verify, EqualModelsPass) {
  const IntegerModel m = integer::sample_model();
  const VerifyResult result = verify(simulation(m), m, engine_judge(m), batches());
  EXPECT_TRUE(result.passed());
  EXPECT_EQ(result.samples, kSamples);
  // Codes of the image 4, of the map 8, flattened 8, logits 2.
  EXPECT_EQ(result.compared, kSamples * (4 + 8 + 8 + 2));
  ASSERT_EQ(result.judges.size(), 1u);
  EXPECT_EQ(result.judges[0].tensors.size(), 4u);
  EXPECT_EQ(result.simulated.top1, result.integer.top1);
  EXPECT_EQ(result.simulated.loss_sum, result.integer.loss_sum);
}

TEST(Verify, ADifferenceHasItsPlaceAndAccumulator) {
  const IntegerModel right = integer::sample_model();
  IntegerModel wrong = right;
  wrong.nodes[1].bias[1] += 8;  // two output steps of channel 1: 0.5 * 0.25 / 0.25 = 0.5 codes a step
  const VerifyResult result = verify(simulation(right), wrong, engine_judge(wrong), batches());
  EXPECT_FALSE(result.passed());
  const TensorResult& map = result.judges[0].tensors[1];
  EXPECT_EQ(map.name, "map");
  EXPECT_GT(map.mismatches, 0);
  EXPECT_EQ(map.max_difference, 4);
  ASSERT_TRUE(map.first);
  // Channel 1 of the first pixel: -4 (10 - 10) + 40 = 40 in the simulation's codes, + 8 by the file's bias.
  EXPECT_THAT(map.first->index, ElementsAre(0, 1, 0, 0));
  EXPECT_EQ(map.first->expected, 20);
  EXPECT_EQ(map.first->found, 24);
  EXPECT_EQ(map.first->accumulator, 48);
  const TensorResult& logits = result.judges[0].tensors[3];
  ASSERT_TRUE(logits.first);
  EXPECT_THAT(logits.first->index, ElementsAre(0, 1));
}

TEST(Verify, WhatIsLeftOutIsAFailure) {
  const IntegerModel m = integer::sample_model();
  IntegerModel renamed = m;
  renamed.tensors[2].name = "other";
  VerifyResult result = verify(simulation(m), renamed, engine_judge(renamed), batches());
  EXPECT_EQ(result.mismatches, 0);
  EXPECT_THAT(result.skipped, ElementsAre("map (engine: not in the file)", "other (engine: not in the simulation)"));
  EXPECT_FALSE(result.passed());

  std::vector<std::unique_ptr<Judge>> judges = engine_judge(m);
  judges.push_back(std::make_unique<Forgetful>(m, std::vector{3}));
  result = verify(simulation(m), m, judges, batches());
  EXPECT_FALSE(result.passed());
  EXPECT_THAT(result.skipped, testing::Each(HasSubstr("flat (forgetful: ")));

  judges[1] = std::make_unique<Forgetful>(m, std::vector{1, 2, 3, 4});
  EXPECT_FALSE(verify(simulation(m), m, judges, batches()).passed());
  // No batch at all: zero compared.
  result = verify(simulation(m), m, engine_judge(m), [](VerifyBatch&) { return false; });
  EXPECT_EQ(result.compared, 0);
  EXPECT_THAT(result.skipped, IsEmpty());
  EXPECT_FALSE(result.passed());
}

TEST(Verify, RefusesModelsThatItCannotFeed) {
  const IntegerModel m = integer::sample_model();
  EXPECT_THROW(verify(simulation(m), m, {}, batches()), Error);
  IntegerModel two = m;
  two.outputs = {4, 4};
  EXPECT_THROW(verify(simulation(m), two, engine_judge(m), batches()), Error);
  IntegerModel codes = m;
  codes.outputs = {3};
  EXPECT_THROW(verify(simulation(m), codes, engine_judge(m), batches()), Error);
}

TEST(Compare, CountsLengthsAndFloatBits) {
  const IntegerModel m = integer::sample_model();
  TensorResult result;
  compare(m, 4, {.batch = 1, .codes = {}, .values = {0.0f, 1.0f, 2.0f}},
          {.batch = 1, .codes = {}, .values = {-0.0f, 1.0f}}, {}, result);
  EXPECT_EQ(result.compared, 3);
  EXPECT_EQ(result.mismatches, 2);  // the sign of zero, and the value that is not there
}

}  // namespace
}  // namespace qat::judges
