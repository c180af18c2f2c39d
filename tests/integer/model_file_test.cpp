#include "core/integer/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/safetensors.h"
#include "tests/integer/sample_model.h"

namespace qat::integer {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

std::string load_error(const std::string& bytes) {
  try {
    load_model(bytes, "model.safetensors");
  } catch (const FileError& e) {
    return e.what();
  }
  return "no error";
}

/// The file with other metadata, or with other tensors.
std::string rewrite(const std::string& bytes, const std::function<void(Json&)>& edit,
                    const std::function<void(std::vector<TensorView>&)>& edit_tensors = {}) {
  const SafetensorsFile file = SafetensorsFile::parse(bytes, "model");
  Json json = Json::parse(file.metadata().at("qat.model"));
  edit(json);
  std::vector<TensorView> tensors = file.tensors();
  if (edit_tensors) edit_tensors(tensors);
  return write_safetensors(tensors, {{"qat.model", json.dump()}});
}

TEST(model_file, round_trip_is_exact_and_deterministic) {
  for (const IntegerModel& model : {sample_model(), every_op_model()}) {
    const std::string bytes = save_model(model);
    const IntegerModel loaded = load_model(bytes, "model");
    EXPECT_EQ(loaded, model);
    EXPECT_EQ(save_model(loaded), bytes);
  }
}

TEST(model_file, scales_survive_as_decimals) {
  IntegerModel model = sample_model();
  for (float scale : {0.1f, 1.0f / 3, 1.4e-45f, 3.0e38f, 0x1.a80e36p-6f}) {
    model.tensors[1].scale = scale;
    model.nodes[1].weight.scale = {1e-3f / scale < 1e30f ? 1e-3f : 1e-6f, 1e-5f};
    EXPECT_EQ(load_model(save_model(model), "model").tensors[1].scale, scale);
  }
}

TEST(model_file, holds_the_documented_tensors) {
  const std::string bytes = save_model(every_op_model());
  const SafetensorsFile file = SafetensorsFile::parse(bytes, "model");
  EXPECT_EQ(file.names(),
            (std::vector<std::string>{"n.conv.weight", "n.conv.weight_scale", "n.conv.weight_zero_point",
                                      "n.conv.multiplier", "n.gate.table", "n.fc.weight", "n.fc.weight_scale",
                                      "n.fc.weight_zero_point", "n.fc.bias", "n.fc.multiplier"}));
  EXPECT_EQ(file.at("n.conv.weight").dtype, "U8");
  EXPECT_EQ(file.at("n.conv.weight").shape, (std::vector<int64_t>{4, 1, 3, 3}));
  const float product = 0.1f * 0.02f;
  EXPECT_EQ(file.at("n.conv.multiplier").values<float>()[1], product / 0.07f);
  const Json json = Json::parse(file.metadata().at("qat.model"));
  EXPECT_EQ(json.at("format"), 3);
  EXPECT_FALSE(json.contains("overflow"));
  EXPECT_EQ(json.at("nodes").at(1).at("op"), "conv");
  EXPECT_EQ(json.at("nodes").at(1).at("inputs"), Json::array({"q"}));
}

TEST(model_file, holds_how_sums_overflow) {
  IntegerModel model = sample_model();
  model.overflow = Overflow::kSaturate16;
  const std::string bytes = save_model(model);
  EXPECT_EQ(load_model(bytes, "model"), model);
  EXPECT_NE(load_model(bytes, "model"), sample_model());
}

TEST(model_file, packs_weights_of_few_values) {
  IntegerModel model = sample_model();
  const SafetensorsFile file = SafetensorsFile::parse(save_model(model), "model");
  // {2, -4} in 1 bit, {1, 2, 3, 4, 0, 0, ...} in 4.
  EXPECT_EQ(file.at("conv.weight").shape, (std::vector<int64_t>{1}));
  EXPECT_EQ(file.at("conv.weight").values<uint8_t>()[0], 0b01);
  EXPECT_EQ(file.at("fc.weight").shape, (std::vector<int64_t>{8}));
  EXPECT_EQ(file.at("fc.weight").values<uint8_t>()[0], 0x21);
  const Json node = Json::parse(file.metadata().at("qat.model")).at("nodes").at(1);
  EXPECT_EQ(node.at("packed_weight"),
            Json({{"type", "int8"}, {"shape", {2, 1, 1, 1}}, {"bits", 1}, {"lowest", -4}, {"step", 6}}));
  // 17 values need a byte each.
  for (int16_t i = 0; i < 16; ++i) model.nodes[3].weight.codes[static_cast<size_t>(i)] = i == 15 ? 16 : i;
  const SafetensorsFile wide = SafetensorsFile::parse(save_model(model), "model");
  EXPECT_EQ(wide.at("fc.weight").dtype, "I8");
  EXPECT_EQ(wide.at("fc.weight").shape, (std::vector<int64_t>{2, 8}));
}

TEST(model_file, opens_a_file_by_path_and_names_it_in_errors) {
  const std::string path = testing::TempDir() + "/qat_model_file_test.safetensors";
  write_file_atomic(path, save_model(sample_model()));
  EXPECT_EQ(open_model(path), sample_model());
  write_file_atomic(path, "nonsense");
  try {
    open_model(path);
    ADD_FAILURE() << "no error";
  } catch (const FileError& e) {
    EXPECT_THAT(e.what(), HasSubstr(path));
  }
  EXPECT_THROW(open_model(path + ".missing"), FileError);
}

TEST(model_file, does_not_write_a_model_that_is_not_well_formed) {
  IntegerModel model = sample_model();
  model.nodes[1].bias.resize(5);
  EXPECT_THROW(save_model(model), Error);
  model = sample_model();
  model.target = "\xff\xfe";
  EXPECT_THROW(save_model(model), Error);
}

TEST(model_file, refuses_what_does_not_fit_and_names_it) {
  const std::string bytes = save_model(sample_model());
  const auto edited = [&](const std::function<void(Json&)>& edit) { return load_error(rewrite(bytes, edit)); };
  const std::pair<const char*, std::function<void(Json&)>> edits[] = {
      {"'tensors' is missing", [](Json& j) { j.erase("tensors"); }},
      {"model format 4", [](Json& j) { j["format"] = 4; }},
      {"unknown overflow 'saturate8'", [](Json& j) { j["overflow"] = "saturate8"; }},
      {"'format' must be an integer", [](Json& j) { j["format"] = "1"; }},
      {"'format' must be an integer", [](Json& j) { j["format"] = UINT64_MAX; }},
      {"expected an object", [](Json& j) { j = Json::array(); }},
      {"'nodes' must be an array", [](Json& j) { j["nodes"] = 3; }},
      {"unknown operator 'teleport'", [](Json& j) { j["nodes"][1]["op"] = "teleport"; }},
      {"unknown type 'int4'", [](Json& j) { j["tensors"][1]["type"] = "int4"; }},
      {"'inputs' names an unknown tensor 'nobody'", [](Json& j) { j["nodes"][1]["inputs"] = {"nobody"}; }},
      {"'zero_point' is out of range", [](Json& j) { j["tensors"][1]["zero_point"] = int64_t{1} << 40; }},
      {"'zero_point' must be an integer", [](Json& j) { j["tensors"][1]["zero_point"] = 1.5; }},
      {"'scale' is out of range", [](Json& j) { j["tensors"][1]["scale"] = 1e300; }},
      {"'scale' must be a number", [](Json& j) { j["tensors"][1]["scale"] = nullptr; }},
      {"'kernel' must have 2 integers",
       [](Json& j) {
         j["nodes"][1]["kernel"] = {1, 2, 3};
       }},
      {"'ceil_mode' must be true or false", [](Json& j) { j["nodes"][1]["ceil_mode"] = 1; }},
      {"conv.multiplier differs", [](Json& j) { j["tensors"][1]["scale"] = 0.25; }},
      {"bad shape",
       [](Json& j) {
         j["tensors"][2]["shape"] = {1 << 30, 1 << 30, 1 << 30};
       }},
      {"1, 2 or 4 bits, found 3", [](Json& j) { j["nodes"][1]["packed_weight"]["bits"] = 3; }},
      {"are not codes of 8 bits", [](Json& j) { j["nodes"][1]["packed_weight"]["step"] = 0; }},
      {"code 300 is not one of 8 bits", [](Json& j) { j["nodes"][1]["packed_weight"]["step"] = 304; }},
      {"the bytes of 1000000000002 codes",
       [](Json& j) { j["nodes"][1]["packed_weight"]["shape"] = {int64_t{1000000000002}}; }},
      {"conv (conv): expected weight shape",
       [](Json& j) {
         j["nodes"][1]["packed_weight"]["shape"] = {1, 2, 1, 1};
       }},
      {"bad size",
       [](Json& j) {
         j["nodes"][1]["packed_weight"]["shape"] = {int64_t{1} << 40, int64_t{1} << 40};
       }},
      {"are not codes of 8 bits", [](Json& j) { j["nodes"][1]["packed_weight"]["lowest"] = -200; }},
      {"belongs to no node", [](Json& j) { j["nodes"].erase(3); }},
      {"'conv2.weight'", [](Json& j) { j["nodes"][1]["name"] = "conv2"; }},
  };
  for (const auto& [message, edit] : edits) {
    const std::string error = edited(edit);
    EXPECT_THAT(error, HasSubstr(message));
    EXPECT_THAT(error, StartsWith("model.safetensors"));
  }
}

TEST(model_file, refuses_tensors_of_another_type_or_shape) {
  const std::string bytes = save_model(sample_model());
  const auto edited = [&](const std::function<void(std::vector<TensorView>&)>& edit) {
    return load_error(rewrite(
        bytes, [](Json&) {}, edit));
  };
  EXPECT_THAT(edited([](auto& t) { t[1].dtype = "I32"; }), HasSubstr("conv.weight_scale"));
  EXPECT_THAT(edited([](auto& t) { t[0].shape = {1, 1}; }), HasSubstr("expected one dimension of packed codes"));
  EXPECT_THAT(edited([](auto& t) { t.pop_back(); }), HasSubstr("fc.multiplier"));
  EXPECT_THAT(edited([](auto& t) { t[1].shape = {2, 1}; }), HasSubstr("expected one dimension"));
  EXPECT_THAT(load_error(write_safetensors({}, {})), HasSubstr("no metadata 'qat.model'"));
  EXPECT_THAT(load_error(write_safetensors({}, {{"qat.model", "{"}})), HasSubstr("metadata 'qat.model'"));
  EXPECT_THAT(load_error(write_safetensors({}, {{"qat.model", std::string(100000, '[')}})), HasSubstr("qat.model"));
}

TEST(model_file, damaged_bytes_load_or_throw_a_file_error) {
  const std::string bytes = save_model(every_op_model());
  std::mt19937 random(11);
  int loaded = 0, refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string damaged = bytes;
    const int flips = 1 + static_cast<int>(random() % 3);
    for (int f = 0; f < flips; ++f) damaged[random() % damaged.size()] = static_cast<char>(random());
    if (random() % 8 == 0) damaged.resize(random() % damaged.size());
    try {
      load_model(damaged, "model").check();
      ++loaded;
    } catch (const FileError&) {
      ++refused;
    }
  }
  EXPECT_EQ(loaded + refused, 4000);
  EXPECT_GT(loaded, 0);
  EXPECT_GT(refused, 2000);
}

}  // namespace
}  // namespace qat::integer
