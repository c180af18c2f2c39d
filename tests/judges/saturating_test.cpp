// Sums that saturate: the engine against ONNX Runtime's default session on a CPU with AVX2 and no VNNI. What such a CPU
// computes was recorded (tests/goldens/saturating), and is computed where this machine has one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <sstream>

#include "core/base/files.h"
#include "core/export/fingerprint.h"
#include "core/export/onnx.h"
#include "core/judges/compare.h"
#include "core/judges/onnxruntime.h"
#include "tests/integer/random_model.h"
#include "tests/support/onnxruntime.h"

namespace qat::judges {
namespace {

using integer::IntegerModel;
using integer::Overflow;
using integer::RandomModel;
using testing::HasSubstr;
using testing::IsEmpty;

/// Lines "<file> <value> <digest>": of each value that ONNX Runtime computed from the file and the fixed input.
std::map<std::string, std::map<std::string, std::string>> recorded(const std::filesystem::path& folder) {
  std::map<std::string, std::map<std::string, std::string>> digests;
  std::istringstream lines(read_file((folder / "digests.txt").string()));
  std::string file, value, digest;
  while (lines >> file >> value >> digest) digests[file][value] = digest;
  return digests;
}

TEST(SaturatingSums, TheEngineGivesTheRecordedCodes) {
  const std::filesystem::path folder = std::filesystem::path(QAT_SOURCE_DIR) / "tests/goldens/saturating";
  const auto digests = recorded(folder);
  EXPECT_GE(digests.size(), 8u);
  for (const auto& [file, expected] : digests) {
    SCOPED_TRACE(file);
    IntegerModel model = exporter::parse_onnx(read_file((folder / file).string()), file);
    EXPECT_EQ(model.overflow, Overflow::kSaturate16);
    const auto found = exporter::fingerprint(model);
    const std::map<std::string, std::string> saturating(found.begin(), found.end());
    EXPECT_EQ(saturating, expected);
    model.overflow = Overflow::kExact;
    const auto exact = exporter::fingerprint(model);
    const std::map<std::string, std::string> other(exact.begin(), exact.end());
    EXPECT_NE(other, expected) << "nothing saturates";
  }
}

TEST(SaturatingSums, AreThoseOfTheDefaultSessionWhereItsSumsSaturate) {
  if (!default_session_saturates(test::onnx_runtime())) GTEST_SKIP() << "this CPU's sums are exact";
  int64_t inexact = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    RandomModel random(seed, {.operators = static_cast<int>(seed % 11), .overflow = Overflow::kSaturate16});
    const IntegerModel& model = random.model();
    std::vector<float> values = random.images(3);
    const engine::Value image{.batch = 3, .values = std::move(values)};
    Values expected;
    engine::Engine(model).run({image}, [&](int index, const engine::Value& value) {
      expected[model.tensors[static_cast<size_t>(index)].name] = value;
    });
    for (const std::string& bytes : {exporter::onnx_qdq(model), exporter::onnx_qoperator(model)}) {
      SCOPED_TRACE(fmt::format("seed {}\n{}", seed, model.dump()));
      const OnnxRuntimeJudge judge(test::onnx_runtime(), bytes, exporter::parse_onnx(bytes, "the export"));
      EXPECT_THAT(judge.float_nodes(), IsEmpty());
      judge.run({image}, [&](int index, const engine::Value& value) {
        TensorResult result;
        compare(model, index, expected.at(model.tensors[static_cast<size_t>(index)].name), value, expected, result);
        EXPECT_EQ(result.mismatches, 0) << result.name;
      });
    }
    IntegerModel exact = model;
    exact.overflow = Overflow::kExact;
    inexact += exporter::fingerprint(exact) != exporter::fingerprint(model) ? 1 : 0;
  }
  EXPECT_GT(inexact, 10);
}

TEST(SaturatingSums, NeedACpuThatSaturates) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    EXPECT_EQ(default_session_saturates(test::onnx_runtime()),
              !__builtin_cpu_supports("avx512vnni") && !__builtin_cpu_supports("avxvnni"));
  }
#endif
  RandomModel random(3, {.operators = 2, .overflow = Overflow::kSaturate16});
  IntegerModel model = random.model();
  EXPECT_EQ(session_of(model), SessionKind::kDefault);
  const std::string reason = obstacle(test::onnx_runtime(), model);
  if (default_session_saturates(test::onnx_runtime())) {
    EXPECT_EQ(reason, "");
  } else {
    EXPECT_THAT(reason, HasSubstr("this CPU's are exact"));
  }
  model.overflow = Overflow::kExact;
  EXPECT_EQ(session_of(model), SessionKind::kExact);
  EXPECT_EQ(obstacle(test::onnx_runtime(), model), "");
}

/// The accumulator that a report of a difference names.
TEST(SaturatingSums, AreNamedInReports) {
  IntegerModel model;
  model.overflow = Overflow::kSaturate16;
  model.tensors = {{.name = "x", .type = integer::CodeType::kFloat32, .shape = {3}},
                   {.name = "x.codes", .shape = {3}, .zero_point = 10},
                   {.name = "y", .type = integer::CodeType::kFloat32, .shape = {1}}};
  model.inputs = {0}, model.outputs = {2};
  integer::Node quantize{.op = integer::Op::kQuantize, .name = "quantize", .inputs = {0}, .output = 1};
  integer::Node linear{.op = integer::Op::kLinear, .name = "linear", .inputs = {1}, .output = 2};
  linear.weight = {.shape = {1, 3}, .codes = {127, 100, 1}, .scale = {1}, .zero_point = {0}};
  linear.bias = {7};
  model.nodes = {quantize, linear};
  const Values inputs{{"x.codes", {.batch = 1, .codes = {255, 255, 20}}}};
  // 255 * 227 = 57885 -> 32767; + 20 - 10 * 228 + 7.
  constexpr float kSum = 32767 + 20 - 2280 + 7;
  TensorResult result;
  compare(model, 2, {.batch = 1, .values = {kSum}}, {.batch = 1, .values = {kSum + 1}}, inputs, result);
  ASSERT_TRUE(result.first);
  EXPECT_EQ(result.first->accumulator, static_cast<int64_t>(kSum));
  EXPECT_EQ(engine::Engine(model).run({{.batch = 1, .values = {245, 245, 10}}})[0].values, std::vector<float>{kSum});
}

}  // namespace
}  // namespace qat::judges
