// Networks that take pixels: the engine and ONNX Runtime give the codes that the floats of the same pixels give.
#include "core/integer/pixels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/export/fingerprint.h"
#include "core/export/onnx.h"
#include "core/judges/compare.h"
#include "core/judges/onnxruntime.h"
#include "core/judges/verify.h"
#include "tests/integer/random_model.h"
#include "tests/integer/sample_model.h"
#include "tests/support/onnxruntime.h"

namespace qat::judges {
namespace {

using integer::IntegerModel;
using integer::RandomModel;
using testing::HasSubstr;
using testing::IsEmpty;

Values engine_values(const IntegerModel& model, const engine::Value& input) {
  Values values;
  engine::Engine(model).run({input}, [&](int index, const engine::Value& value) {
    if (index != model.inputs[0]) values[model.tensors[static_cast<size_t>(index)].name] = value;
  });
  return values;
}

TEST(Pixels, GiveTheCodesOfTheirFloats) {
  int64_t compared = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const RandomModel random(
        seed, {.type = seed % 3 == 0 ? integer::CodeType::kInt8 : integer::CodeType::kUint8, .operators = 3});
    IntegerModel model = random.model();
    if (seed % 5 == 0) model.preprocessing = {};
    const IntegerModel of_pixels = integer::with_pixel_input(model);
    const engine::Value pixels = exporter::fixed_inputs(of_pixels)[0];
    const int64_t channels = model.tensors[0].shape[0];
    engine::Value floats{.batch = 1};
    for (size_t i = 0; i < pixels.codes.size(); ++i) {
      const auto values = integer::pixel_values(model.preprocessing, static_cast<int64_t>(i) % channels);
      floats.values.push_back(values[pixels.codes[i]]);
    }
    const Values expected = engine_values(model, floats);
    const auto equal = [&](int index, const engine::Value& value) {
      if (index == 0) return;
      TensorResult result;
      compare(model, index, expected.at(model.tensors[static_cast<size_t>(index)].name), value, expected, result);
      EXPECT_EQ(result.mismatches, 0) << result.name;
      compared += result.compared;
    };
    engine::Engine(of_pixels).run({pixels}, equal);
    for (const std::string& bytes : {exporter::onnx_qdq(of_pixels), exporter::onnx_qoperator(of_pixels)}) {
      SCOPED_TRACE(fmt::format("seed {}\n{}", seed, of_pixels.dump()));
      const IntegerModel read = exporter::parse_onnx(bytes, "the export");
      EXPECT_EQ(read.tensors[0].type, integer::CodeType::kPixels);
      EXPECT_EQ(exporter::onnx_qdq(read), exporter::onnx_qdq(of_pixels));
      const OnnxRuntimeJudge judge(test::onnx_runtime(), bytes, read);
      EXPECT_THAT(judge.float_nodes(), IsEmpty());
      judge.run({pixels}, equal);
    }
  }
  EXPECT_GT(compared, 30000);
}

TEST(Pixels, AreVerifiedFromTheFloatsOfTheDataset) {
  const IntegerModel model = integer::sample_model(), of_pixels = integer::with_pixel_input(model);
  const auto values = integer::pixel_values(model.preprocessing, 0);
  std::vector<float> images = {values[0], values[255], values[17], values[130]};
  const std::vector<int64_t> labels = {1};
  const auto verified = [&] {
    std::vector<std::unique_ptr<Judge>> judges;
    judges.push_back(std::make_unique<EngineJudge>(of_pixels));
    const Simulation simulation = [&](const VerifyBatch& batch) {
      Simulated result;
      result.tensors = engine_values(model, {.batch = 1, .values = {batch.images, batch.images + 4}});
      result.output = result.tensors.at("logits");
      return result;
    };
    return verify(simulation, of_pixels, judges, [&, done = false](VerifyBatch& batch) mutable {
      batch = {.size = 1, .images = images.data(), .labels = labels.data()};
      return !std::exchange(done, true);
    });
  };
  const VerifyResult result = verified();
  EXPECT_TRUE(result.passed());
  EXPECT_EQ(result.compared, 4 + 8 + 8 + 2);
  images[2] += 0.001f;
  try {
    verified();
    FAIL() << "a value between two pixels was accepted";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("(number 2) is not that of a pixel"));
  }
}

}  // namespace
}  // namespace qat::judges
