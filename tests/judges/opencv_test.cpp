// The engine against OpenCV, node by node, on onnx-qoperator files.
#include "core/judges/opencv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "core/base/error.h"
#include "core/export/onnx.h"
#include "core/judges/verify.h"
#include "tests/integer/random_model.h"
#include "tests/integer/sample_model.h"

namespace qat::judges {
namespace {

using integer::CodeType;
using integer::IntegerModel;
using integer::Node;
using integer::Op;
using integer::RandomModel;
using testing::ElementsAre;
using testing::IsEmpty;

/// What the engine computes for `right` against what the engine and OpenCV compute from the file of `written`.
VerifyResult judge(const IntegerModel& right, const IntegerModel& written, const std::vector<float>& images) {
  const std::string bytes = exporter::onnx_qoperator(written);
  const IntegerModel file = exporter::parse_onnx(bytes, "file");
  std::vector<std::unique_ptr<Judge>> judges;
  judges.push_back(std::make_unique<EngineJudge>(file));
  judges.push_back(std::make_unique<OpenCvJudge>(bytes, file));
  const auto simulate = [&](const VerifyBatch& batch) {
    Simulated result;
    engine::Value image{.batch = batch.size};
    image.values = images;
    result.output = engine::Engine(right).run({image}, [&](int index, const engine::Value& value) {
      if (index != 0) result.tensors[right.tensors[static_cast<size_t>(index)].name] = value;
    })[0];
    return result;
  };
  const int64_t samples = static_cast<int64_t>(images.size()) / right.tensors[0].size();
  const std::vector<int64_t> labels(static_cast<size_t>(samples), 0);
  bool done = false;
  return verify(simulate, file, judges, [&](VerifyBatch& batch) {
    batch = {.size = samples, .images = images.data(), .labels = labels.data()};
    return !std::exchange(done, true);
  });
}

RandomModel network(uint64_t seed) {
  return {seed,
          {.type = seed % 4 == 3 ? CodeType::kInt8 : CodeType::kUint8,
           .ties = seed % 2 == 0,
           .operators = static_cast<int>(seed % 11)}};
}

class RandomOpenCvFiles : public testing::TestWithParam<uint64_t> {};

TEST_P(RandomOpenCvFiles, EngineAndOpenCvGiveTheSameCodes) {
  for (uint64_t seed = GetParam() * 20; seed < (GetParam() + 1) * 20; ++seed) {
    RandomModel random = network(seed);
    const IntegerModel& model = random.model();
    SCOPED_TRACE(fmt::format("seed {}\n{}", seed, model.dump()));
    const VerifyResult result = judge(model, model, random.images(3));
    EXPECT_EQ(result.mismatches, 0);
    EXPECT_THAT(result.skipped, IsEmpty());
    const JudgeResult& opencv = result.judges[1];
    EXPECT_EQ(opencv.tensors.size() + opencv.advisory.size() + opencv.left_out.size(), model.nodes.size());
    for (const TensorResult& t : opencv.tensors) {
      EXPECT_EQ(t.mismatches, 0) << t.name << " by " << t.max_difference;
      // Halves are common in these networks only where all scales are powers of two.
      EXPECT_TRUE(seed % 2 == 0 || t.ties == 0) << t.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomOpenCvFiles, testing::Range<uint64_t>(0, 10));

TEST(OpenCv, JudgesEveryOperatorThatItCan) {
  std::map<std::string, int> exact, advisory, left_out;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const RandomModel random = network(seed);
    const IntegerModel& model = random.model();
    const OpenCvJudge opencv("", model);
    for (const Node& node : model.nodes) {
      const Standing standing = opencv.standing(node);
      auto& count = standing.kind == Standing::Kind::kLeftOut    ? left_out
                    : standing.kind == Standing::Kind::kAdvisory ? advisory
                                                                 : exact;
      ++count[to_string(node.op)];
      EXPECT_EQ(&count == &exact, standing.reason.empty()) << node.name;
    }
  }
  for (const char* op : {"conv", "linear", "add", "mul", "concat", "max_pool", "table", "flatten", "channel_slice"}) {
    EXPECT_GE(exact[op], 10) << op;
  }
  for (const char* op : {"average_pool", "global_average_pool", "quantize", "dequantize"}) {
    EXPECT_GE(advisory[op], 10) << op;
    EXPECT_EQ(exact[op], 0) << op;
  }
  EXPECT_GT(exact["conv"], 5 * left_out["conv"]);
}

/// A wrong file is caught: OpenCV computes what the file says, and the difference is no tie.
TEST(OpenCv, CatchesOneOffs) {
  int caught = 0;
  for (uint64_t seed = 1; seed < 40; seed += 2) {
    RandomModel random = network(seed);
    const IntegerModel& right = random.model();
    const std::vector<float> images = random.images(4);
    for (size_t n = 0; n < right.nodes.size(); ++n) {
      const Node& node = right.nodes[n];
      const integer::Tensor& y = right.tensors[static_cast<size_t>(node.output)];
      if (node.bias.empty() || y.type == CodeType::kFloat32 || node.weight.type == CodeType::kUint8) continue;
      IntegerModel wrong = right;
      for (size_t c = 0; c < node.bias.size(); ++c) {  // one output code more
        const std::vector<float> m = right.multipliers(node);
        wrong.nodes[n].bias[c] += static_cast<int32_t>(1.0f / m[m.size() == 1 ? 0 : c]);
      }
      const VerifyResult result = judge(right, wrong, images);
      for (const TensorResult& t : result.judges[1].tensors) {
        if (t.name != y.name) continue;
        caught += t.mismatches > 0;
        EXPECT_EQ(t.mismatches > 0, t.first && t.first->accumulator);
      }
    }
  }
  EXPECT_GE(caught, 20);
}

TEST(OpenCv, SaysWhatItLeavesOut) {
  const IntegerModel m = integer::sample_model();
  const VerifyResult result = judge(m, m, {0, 1, -1, 100});
  EXPECT_TRUE(result.passed());
  EXPECT_THAT(result.judges[1].left_out, ElementsAre("logits (it has no QGemm of float32 outputs)"));
  ASSERT_EQ(result.judges[1].advisory.size(), 1u);
  EXPECT_EQ(result.judges[1].advisory[0].name, "image_codes");
  EXPECT_EQ(result.judges[1].compared, 8 + 8);  // map and flat
}

TEST(OpenCv, TellsWhyItRefusesAFile) {
  const IntegerModel m = integer::sample_model();
  IntegerModel other = m;
  other.nodes[1].name = "other";
  engine::Value image{.batch = 1};
  image.values = {0, 1, -1, 100};
  const auto ignore = [](int, const engine::Value&) {};
  EXPECT_THROW(OpenCvJudge(exporter::onnx_qoperator(other), m).run({image}, ignore), Error);
  EXPECT_THROW(OpenCvJudge("no model", m).run({image}, ignore), Error);
}

/// 2 x 1.5 = 3 and 1 x 1.5 = 1.5 codes: 1 and 2 are as near, 3 is not.
TEST(Compare, CountsTies) {
  IntegerModel m = integer::sample_model();
  m.nodes[1].weight.scale = {0.75f, 0.75f};  // one accumulator step is 1.5 codes
  m.nodes[1].bias = {1, 2};
  m.nodes[1].weight.codes = {0, 0};
  const engine::Value input{.batch = 1, .codes = {0, 0, 0, 0}};
  const engine::Value expected{.batch = 1, .codes = {2, 3, 2, 3, 2, 3, 2, 3}};
  const engine::Value found{.batch = 1, .codes = {1, 3, 2, 3, 3, 3, 2, 2}};
  TensorResult strict, nearest;
  compare(m, 2, expected, found, {{"image_codes", input}}, strict);
  EXPECT_EQ(strict.mismatches, 3);
  EXPECT_EQ(strict.ties, 0);
  compare(m, 2, expected, found, {{"image_codes", input}}, nearest, true);
  EXPECT_EQ(nearest.ties, 1);
  EXPECT_EQ(nearest.mismatches, 2);
  // What a wrong file makes is near its own numbers, not ours.
  TensorResult wrong;
  compare(m, 2, found, expected, {{"image_codes", input}}, wrong, true);
  EXPECT_EQ(wrong.mismatches, 2);
}

}  // namespace
}  // namespace qat::judges
