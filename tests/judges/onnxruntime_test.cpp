// The engine against ONNX Runtime, on files of both forms: no code differs. ONNX Runtime must be there (tools/test
// provides it): its absence is a failure.
#include "core/judges/onnxruntime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "core/base/error.h"
#include "core/export/fingerprint.h"
#include "core/export/onnx.h"
#include "core/judges/compare.h"
#include "core/judges/verify.h"
#include "tests/integer/random_model.h"
#include "tests/integer/sample_model.h"
#include "tests/support/onnxruntime.h"

namespace qat::judges {
namespace {

using integer::CodeType;
using integer::IntegerModel;
using integer::Node;
using integer::Op;
using integer::RandomModel;
using integer::RandomOptions;
using testing::HasSubstr;
using testing::IsEmpty;

engine::Value image(std::vector<float> values, const integer::Tensor& t) {
  return {.batch = static_cast<int64_t>(values.size()) / t.size(), .codes = {}, .values = std::move(values)};
}

/// Tensors in which the two differ: "conv.3 (conv): 2 of 40 by 1, at [0, 1, 2, 3]: 7, not 8".
struct Outcome {
  int64_t compared = 0, mismatches = 0;
  std::set<int> tensors;
  std::string text;
};

void add(Outcome& outcome, const IntegerModel& model, const Values& expected, int index, const engine::Value& found) {
  TensorResult result;
  compare(model, index, expected.at(model.tensors[static_cast<size_t>(index)].name), found, expected, result);
  outcome.compared += result.compared;
  outcome.mismatches += result.mismatches;
  outcome.tensors.insert(index);
  if (result.mismatches == 0) return;
  outcome.text +=
      fmt::format("{}: {} of {} differ, by {} at most; at [{}] {} for {}, accumulator {}\n", result.name,
                  result.mismatches, result.compared, result.max_difference, fmt::join(result.first->index, ", "),
                  result.first->found, result.first->expected, result.first->accumulator.value_or(-1));
}

Values engine_values(const IntegerModel& model, const std::vector<engine::Value>& inputs) {
  Values values;
  engine::Engine(model).run(inputs, [&](int index, const engine::Value& value) {
    values[model.tensors[static_cast<size_t>(index)].name] = value;
  });
  return values;
}

/// Everything that the engine computes for `model` against what ONNX Runtime computes from `bytes`.
Outcome judge(const IntegerModel& model, const std::string& bytes, const std::vector<engine::Value>& inputs,
              std::vector<std::string>* float_nodes = nullptr) {
  const Values expected = engine_values(model, inputs);
  Outcome outcome;
  const OnnxRuntimeJudge judge(test::onnx_runtime(), bytes, model);
  judge.run(inputs, [&](int index, const engine::Value& value) { add(outcome, model, expected, index, value); });
  if (float_nodes != nullptr) *float_nodes = judge.float_nodes();
  return outcome;
}

struct Form {
  const char* name;
  std::string (*write)(const IntegerModel&);
};
constexpr Form kForms[] = {{"onnx-qdq", exporter::onnx_qdq}, {"onnx-qoperator", exporter::onnx_qoperator}};

RandomOptions options_of(uint64_t seed) {
  return {.type = seed % 4 == 3 ? CodeType::kInt8 : CodeType::kUint8,
          .ties = seed % 2 == 0,
          .operators = static_cast<int>(seed % 11)};
}

/// 20, or $QAT_RANDOM_NETS for a long search.
uint64_t nets_per_test() {
  const char* given = std::getenv("QAT_RANDOM_NETS");
  return given == nullptr ? 20 : std::strtoull(given, nullptr, 10);
}

class RandomFiles : public testing::TestWithParam<uint64_t> {};

// 200 networks in 10 tests; a failure names the seed.
TEST_P(RandomFiles, EngineAndOnnxRuntimeGiveTheSameCodes) {
  const uint64_t nets = nets_per_test();
  for (uint64_t seed = GetParam() * nets; seed < (GetParam() + 1) * nets; ++seed) {
    RandomModel random(seed, options_of(seed));
    const IntegerModel& model = random.model();
    const std::vector<engine::Value> inputs = {image(random.images(3), model.tensors[0])};
    for (const Form& form : kForms) {
      SCOPED_TRACE(fmt::format("seed {}, {}\n{}", seed, form.name, model.dump()));
      try {
        std::vector<std::string> float_nodes;
        const Outcome outcome = judge(model, form.write(model), inputs, &float_nodes);
        EXPECT_EQ(outcome.mismatches, 0) << outcome.text;
        EXPECT_GT(outcome.compared, 0);
        EXPECT_EQ(outcome.tensors.size(), model.nodes.size());
        EXPECT_THAT(float_nodes, IsEmpty());
      } catch (const Error& e) {
        ADD_FAILURE() << e.what();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomFiles, testing::Range<uint64_t>(0, 10));

TEST(RandomFilesCover, EveryOperatorTypeAndWidth) {
  std::map<std::string, int> count;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const RandomModel random(seed, options_of(seed));
    for (const Node& node : random.model().nodes) {
      const integer::Tensor& y = random.model().tensors[static_cast<size_t>(node.output)];
      ++count[to_string(node.op)];
      ++count[fmt::format("{} {}", to_string(y.type), y.hi - y.lo + 1)];
      if (!node.function.empty()) ++count[node.function];
      if (node.groups > 1) ++count["groups"];
      if (node.ceil_mode) ++count["ceil"];
      if (!node.weight.codes.empty()) ++count[fmt::format("weight {}", to_string(node.weight.type))];
    }
  }
  for (const char* feature :
       {"quantize",        "dequantize",          "conv",      "linear",  "add",         "mul",     "max_pool",
        "average_pool",    "global_average_pool", "concat",    "table",   "relu",        "flatten", "channel_slice",
        "channel_shuffle", "uint8 256",           "uint8 16",  "uint8 4", "int8 256",    "int8 16", "int8 4",
        "sigmoid",         "leaky_relu",          "hardswish", "silu",    "hardsigmoid", "groups",  "ceil",
        "weight int8",     "weight uint8"}) {
    EXPECT_GE(count[feature], 10) << feature;
  }
}

/// A wrong model and a name for what is wrong with it.
struct Mutation {
  const char* name;
  /// False where the node offers nothing to change.
  bool (*apply)(IntegerModel& model, Node& node);
};

integer::Tensor& output(IntegerModel& model, const Node& node) {
  return model.tensors[static_cast<size_t>(node.output)];
}

bool has_codes(const IntegerModel& model, const Node& node) {
  return model.tensors[static_cast<size_t>(node.output)].type != CodeType::kFloat32;
}

constexpr Mutation kMutations[] = {
    {"bias + 1",
     [](IntegerModel&, Node& node) {
       for (int32_t& b : node.bias) ++b;
       return !node.bias.empty();
     }},
    {"half a step lower: rounding down for rounding to nearest",
     [](IntegerModel& model, Node& node) {
       if (node.bias.empty() || !has_codes(model, node)) return false;
       const std::vector<float> m = model.multipliers(node);
       for (size_t c = 0; c < m.size(); ++c) node.bias[c] -= static_cast<int32_t>(0.5f / m[c]);
       return m[0] < 0.25f;
     }},
    {"one weight",
     [](IntegerModel&, Node& node) {
       if (node.weight.codes.empty()) return false;
       int16_t& w = node.weight.codes[node.weight.codes.size() / 2];
       w = static_cast<int16_t>(w > 0 ? w - 1 : w + 1);
       return true;
     }},
    {"weight scale of max / 127.5 for max / 127",
     [](IntegerModel&, Node& node) {
       for (float& s : node.weight.scale) s *= 254.0f / 255.0f;
       return !node.weight.codes.empty();
     }},
    {"weight scale by one ulp",
     [](IntegerModel&, Node& node) {
       for (float& s : node.weight.scale) s = std::nextafter(s, 2.0f);
       return !node.weight.codes.empty();
     }},
    {"padding shifted by a pixel",
     [](IntegerModel&, Node& node) {
       if (node.op == Op::kMaxPool || node.pad[1] == 0 || node.pad[3] + 1 >= node.kernel[1]) return false;
       --node.pad[1];
       ++node.pad[3];
       return true;
     }},
    {"divisor of padded windows",
     [](IntegerModel&, Node& node) {
       node.count_include_pad = !node.count_include_pad;
       return node.op == Op::kAveragePool && node.pad[0] + node.pad[1] > 0;
     }},
    {"largest code - 1",
     [](IntegerModel& model, Node& node) {
       if (integer::passes_codes(node.op) || node.op == Op::kTable || !has_codes(model, node)) return false;
       return --output(model, node).hi > output(model, node).zero_point;
     }},
};

/// Every mutation that shows in the engine's own codes shows in ONNX Runtime's on the mutated file, in as many of them.
TEST(Mutations, AreCaught) {
  std::map<std::string, int> shown;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    RandomModel random(500 + seed, {.ties = true, .operators = 5});
    const IntegerModel& right = random.model();
    const std::vector<engine::Value> inputs = {image(random.images(4), right.tensors[0])};
    const Values expected = engine_values(right, inputs);
    for (size_t n = seed % 3; n < right.nodes.size(); n += 3) {
      for (const Mutation& mutation : kMutations) {
        IntegerModel wrong = right;
        if (!mutation.apply(wrong, wrong.nodes[n])) continue;
        // What hands codes on hands on their range.
        for (Node& node : wrong.nodes) {
          if (!integer::passes_codes(node.op)) continue;
          output(wrong, node).hi = wrong.tensors[static_cast<size_t>(node.inputs[0])].hi;
        }
        Outcome by_engine;
        engine::Engine(wrong).run(inputs, [&](int index, const engine::Value& value) {
          if (index != 0) add(by_engine, right, expected, index, value);
        });
        if (by_engine.mismatches == 0) continue;  // no input reaches it
        ++shown[mutation.name];
        SCOPED_TRACE(fmt::format("seed {}, {}, {}", 500 + seed, right.nodes[n].name, mutation.name));
        const Outcome by_runtime = judge(right, kForms[seed % 2].write(wrong), inputs);
        EXPECT_EQ(by_runtime.mismatches, by_engine.mismatches);
        EXPECT_EQ(by_runtime.text, by_engine.text);
      }
    }
  }
  for (const Mutation& mutation : kMutations) EXPECT_GE(shown[mutation.name], 2) << mutation.name;
}

TEST(OnnxRuntime, LeavesNothingInFloat) {
  const IntegerModel m = integer::sample_model();
  const std::string bytes = exporter::onnx_qdq(m);
  EXPECT_THAT(exporter::onnx_float_nodes(bytes, "m.onnx"), testing::ElementsAre("conv (Conv)", "fc (Gemm)"));
  EXPECT_THAT(OnnxRuntimeJudge(test::onnx_runtime(), bytes, m).float_nodes(), IsEmpty());
}

TEST(OnnxRuntime, TheDefaultSessionIsTried) {
  RandomModel random(12, {.operators = 6});
  const IntegerModel& m = random.model();
  const std::vector<engine::Value> inputs = {image(random.images(2), m.tensors[0])};
  const DefaultSession session = try_default_session(test::onnx_runtime(), exporter::onnx_qdq(m), m, inputs);
  int64_t elements = 0;
  for (const Node& node : m.nodes) elements += 2 * m.tensors[static_cast<size_t>(node.output)].size();
  EXPECT_EQ(session.compared, elements);
  // How many differ is the CPU's affair: without VNNI, pairs of products saturate.
  EXPECT_LE(session.mismatches, session.compared);
}

TEST(OnnxRuntime, RefusesWhatIsNoModel) {
  RandomModel random(1, {.operators = 1});
  EXPECT_THROW(OnnxSession(test::onnx_runtime(), "no model", SessionKind::kExact, false), Error);
  const OnnxSession session(test::onnx_runtime(), exporter::onnx_qdq(random.model()), SessionKind::kExact, false);
  const engine::Value three{.batch = 1, .values = {0, 0, 0}};
  try {
    session.run({{.name = "other", .shape = {1, 3}, .value = three}}, {"logits"});
    ADD_FAILURE() << "expected an error";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("ONNX Runtime: "));
    EXPECT_THAT(e.what(), HasSubstr("other"));
  }
}

TEST(OnnxRuntime, IsFoundWhereTheVariableSays) {
  const std::optional<std::string> library = OnnxRuntime::find();
  ASSERT_TRUE(library) << "ONNX Runtime is missing: run tools/test";
  const char* old = std::getenv("QAT_ONNXRUNTIME");
  const std::string before = old == nullptr ? "" : old;
  setenv("QAT_ONNXRUNTIME", library->c_str(), 1);
  EXPECT_EQ(OnnxRuntime::find(), library);
  setenv("QAT_ONNXRUNTIME", std::filesystem::path(*library).parent_path().c_str(), 1);
  EXPECT_EQ(OnnxRuntime::find(), library);
  setenv("QAT_ONNXRUNTIME", "/nowhere/libonnxruntime.so", 1);
  EXPECT_THROW(OnnxRuntime::find(), FileError);
  if (old == nullptr) {
    unsetenv("QAT_ONNXRUNTIME");
  } else {
    setenv("QAT_ONNXRUNTIME", before.c_str(), 1);
  }
  EXPECT_THROW(OnnxRuntime("/nowhere/libonnxruntime.so"), FileError);
  EXPECT_THAT(test::onnx_runtime().version(), testing::MatchesRegex("[0-9.]+"));
}

}  // namespace
}  // namespace qat::judges
