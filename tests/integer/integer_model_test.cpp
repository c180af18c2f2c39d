#include "core/integer/integer_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/base/error.h"
#include "tests/integer/sample_model.h"

namespace qat::integer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

std::string check_error(const IntegerModel& m) {
  return error_of([&] { m.check(); });
}

struct Damage {
  const char* message;  // part of what check() must say; names the node or tensor
  std::function<void(IntegerModel&)> apply;
};

TEST(integer_model, samples_are_well_formed) {
  EXPECT_NO_THROW(sample_model().check());
  EXPECT_NO_THROW(every_op_model().check());
}

TEST(integer_model, check_names_what_is_wrong) {
  const Damage damages[] = {
      {"tensor name 'map'", [](auto& m) { m.tensors[3].name = "map"; }},
      {"tensor map: bad shape [2, 0, 2]", [](auto& m) { m.tensors[2].shape[1] = 0; }},
      {"tensor map: bad shape", [](auto& m) { m.tensors[2].shape[1] = int64_t{1} << 62; }},
      {"tensor map: expected a shape of 1 or 3",
       [](auto& m) {
         m.tensors[2].shape = {2, 2};
       }},
      {"tensor map: expected a finite positive scale", [](auto& m) { m.tensors[2].scale = 0; }},
      {"tensor map: expected a finite positive scale",
       [](auto& m) { m.tensors[2].scale = std::numeric_limits<float>::quiet_NaN(); }},
      {"tensor map: zero point -1", [](auto& m) { m.tensors[2].zero_point = -1; }},
      {"tensor map: range [0, 256]", [](auto& m) { m.tensors[2].hi = 256; }},
      {"tensor map: range [9, 8]", [](auto& m) { m.tensors[2].lo = 9, m.tensors[2].hi = 8; }},
      {"needs inputs and outputs", [](auto& m) { m.outputs.clear(); }},
      {"input index 5", [](auto& m) { m.inputs = {5}; }},
      {"input index 0",
       [](auto& m) {
         m.inputs = {0, 0};
       }},
      {"output index -1", [](auto& m) { m.outputs = {-1}; }},
      {"node name 'conv'", [](auto& m) { m.nodes[2].name = "conv"; }},
      {"conv (conv): input index 7", [](auto& m) { m.nodes[1].inputs = {7}; }},
      {"conv (conv): input flat is used before", [](auto& m) { m.nodes[1].inputs = {3}; }},
      {"conv (conv): output index 9", [](auto& m) { m.nodes[1].output = 9; }},
      {"fc (linear): tensor map is written twice", [](auto& m) { m.nodes[3].output = 2; }},
      {"tensor logits is never made", [](auto& m) { m.nodes.pop_back(); }},
      {"conv (conv): expected 1 inputs, found 2",
       [](auto& m) {
         m.nodes[1].inputs = {1, 1};
       }},
      {"input (quantize): expected float32 or pixels in",
       [](auto& m) {
         m.tensors[0] = codes("image", {1, 2, 2}, 1, 0);
       }},
      {"conv (conv): image_codes is int8",
       [](auto& m) {
         m.tensors[1] = codes("image_codes", {1, 2, 2}, 1, 0, CodeType::kInt8);
       }},
      {"conv (conv): expected output shape [2, 2, 2], found [2, 3, 2]",
       [](auto& m) {
         m.tensors[2].shape = {2, 3, 2};
       }},
      {"conv (conv): 3 groups", [](auto& m) { m.nodes[1].groups = 3; }},
      {"conv (conv): kernel, stride or dilation 0", [](auto& m) { m.nodes[1].stride[1] = 0; }},
      {"conv (conv): padding -1", [](auto& m) { m.nodes[1].pad[2] = -1; }},
      {"conv (conv): the kernel is larger",
       [](auto& m) {
         m.nodes[1].kernel = {3, 3};
       }},
      {"conv (conv): expected weight shape [2, 1, 1, 1]", [](auto& m) { m.nodes[1].weight.shape = {2}; }},
      {"conv (conv): expected 2 weight codes, found 1", [](auto& m) { m.nodes[1].weight.codes.pop_back(); }},
      {"conv (conv): weight code 128", [](auto& m) { m.nodes[1].weight.codes[0] = 128; }},
      {"conv (conv): expected 1 or 2 weight scales, found 3", [](auto& m) { m.nodes[1].weight.scale.resize(3, 1); }},
      {"conv (conv): weight scale -1", [](auto& m) { m.nodes[1].weight.scale[0] = -1; }},
      {"conv (conv): expected 1 or 2 weight zero points, found 0",
       [](auto& m) { m.nodes[1].weight.zero_point.clear(); }},
      {"conv (conv): weight zero point 200", [](auto& m) { m.nodes[1].weight.zero_point[0] = 200; }},
      {"conv (conv): expected 2 biases or none, found 3", [](auto& m) { m.nodes[1].bias.resize(3); }},
      {"conv (conv): a multiplier overflows",
       [](auto& m) { m.nodes[1].weight.scale[0] = 1e30f, m.tensors[2].scale = m.tensors[3].scale = 1e-30f; }},
      {"flatten (flatten): input and output must have the same scale", [](auto& m) { m.tensors[3].scale = 1; }},
      {"flatten (flatten): expected output shape [8], found [7]", [](auto& m) { m.tensors[3].shape = {7}; }},
      {"flatten (flatten): codes [0, 255] are passed on", [](auto& m) { m.tensors[3].hi = 15; }},
      {"fc (linear): expected weight shape [2, 8], found [8, 2]",
       [](auto& m) {
         m.nodes[3].weight.shape = {8, 2};
       }},
      {"conv (conv): sums that saturate are those of uint8 codes and int8 weights",
       [](auto& m) { m.overflow = Overflow::kSaturate16, m.nodes[1].weight.zero_point = {1}; }},
      {"preprocessing: 1 means but 2",
       [](auto& m) {
         m.preprocessing.std = {1, 1};
       }},
      {"preprocessing: standard deviation 0", [](auto& m) { m.preprocessing.std = {0}; }},
  };
  for (const Damage& damage : damages) {
    IntegerModel m = sample_model();
    damage.apply(m);
    EXPECT_THAT(check_error(m), HasSubstr(damage.message));
  }
}

TEST(integer_model, check_names_what_is_wrong_in_other_operators) {
  const Damage damages[] = {
      {"n.gap (global_average_pool): expected output shape [4, 1, 1]",
       [](auto& m) {
         m.nodes[3].inputs = {1}, m.tensors[1].shape = {4, 4, 4}, m.tensors[0].shape = {4, 4, 4},
         m.nodes[1].weight.shape[1] = 2, m.nodes[1].weight.codes.resize(72), m.tensors[4].shape = {4, 2, 1};
       }},
      {"n.gate (table): expected a table of 256", [](auto& m) { m.nodes[4].table.pop_back(); }},
      {"n.gate (table): table code 300", [](auto& m) { m.nodes[4].table[7] = 300; }},
      {"n.gate (table): the table's function has no name", [](auto& m) { m.nodes[4].function.clear(); }},
      {"n.scale (mul): shapes [4, 2, 2] and [2, 4, 4]", [](auto& m) { m.nodes[5].inputs[1] = 1; }},
      {"n.add (add): expected 2 inputs, found 3",
       [](auto& m) {
         m.nodes[6].inputs = {6, 2, 2};
       }},
      {"n.add (add): the ratio",
       [](auto& m) { m.tensors[7].scale = m.tensors[8].scale = m.tensors[9].scale = 1e-38f; }},
      {"n.cat (concat): shapes [4, 2, 2] and [2, 4, 4] differ", [](auto& m) { m.nodes[7].inputs[1] = 1; }},
      {"n.cat (concat): expected output shape [12, 2, 2]", [](auto& m) { m.nodes[7].inputs.push_back(2); }},
      {"n.max (max_pool): padding must be smaller", [](auto& m) { m.nodes[8].pad[0] = 3; }},
      {"n.max (max_pool): input and output must have the same scale", [](auto& m) { m.tensors[9].scale = 0.1f; }},
      {"n.avg (average_pool): an average pool has no dilation",
       [](auto& m) {
         m.nodes[9].dilation = {2, 2};
       }},
      {"n.relu (relu): expected output shape [4, 2, 2], found [4, 4, 1]",
       [](auto& m) {
         m.tensors[3].shape = {4, 4, 1};
       }},
  };
  for (const Damage& damage : damages) {
    IntegerModel m = every_op_model();
    damage.apply(m);
    EXPECT_THAT(check_error(m), HasSubstr(damage.message));
  }
}

TEST(integer_model, accumulators_must_stay_below_2_to_the_31) {
  IntegerModel m = sample_model();
  EXPECT_NO_THROW(m.check_accumulators());
  // conv, channel 1: |w| = 4, |q - z| <= max(10, 245): 980. fc, channel 0: 1 + 2 + 3 + 4 = 10 times 255 = 2550.
  m.nodes[1].bias[1] = 2147483647 - 980;
  EXPECT_NO_THROW(m.check_accumulators());
  m.nodes[1].bias[1] = -(2147483647 - 980) - 1;
  EXPECT_THAT(error_of([&] { m.check_accumulators(); }),
              HasSubstr("conv (conv): accumulators of channel 1 can reach 2147483648"));
  EXPECT_NO_THROW(m.check());
  // A narrower input reaches less: |q - z| <= max(10, 5).
  m.tensors[1].hi = 15;
  EXPECT_NO_THROW(m.check_accumulators());
  m.nodes[3].bias = {2147483647 - 2549, 0};
  EXPECT_THAT(error_of([&] { m.check_accumulators(); }), HasSubstr("fc (linear): accumulators of channel 0"));
  // Sums that saturate are those of raw codes, less the zero point's: 4 * (15 + 10) = 100.
  m = sample_model();
  m.overflow = Overflow::kSaturate16, m.tensors[1].hi = 15;
  m.nodes[1].bias[1] = 2147483647 - 100;
  EXPECT_NO_THROW(m.check_accumulators());
  m.nodes[1].bias[1] = 2147483647 - 99;
  EXPECT_THAT(error_of([&] { m.check_accumulators(); }), HasSubstr("conv (conv): accumulators of channel 1"));
}

TEST(integer_model, multipliers_round_the_product_of_scales_first) {
  IntegerModel m = sample_model();
  EXPECT_THAT(m.multipliers(m.nodes[1]), ElementsAre(1.0f, 0.5f));    // 0.5 * {0.5, 0.25} / 0.25
  EXPECT_THAT(m.multipliers(m.nodes[3]), ElementsAre(0.25f, 0.25f));  // float output: s_x * s_w, one scale for all
  m.tensors[1].scale = 0.1f;
  m.nodes[1].weight.scale = {0.3f, 0.7f};
  m.tensors[2].scale = 0.9f;
  const float product = 0.1f * 0.7f;
  EXPECT_EQ(m.multipliers(m.nodes[1])[1], product / 0.9f);
  EXPECT_THROW(m.multipliers(m.nodes[0]), Error);
}

TEST(integer_model, dump_has_a_line_for_each_node) {
  EXPECT_EQ(sample_model().dump(),
            "target onnxruntime\n"
            "preprocessing mean [0.286] std [0.353]\n"
            "input  image [1, 2, 2] float32\n"
            "input = quantize(image) -> image_codes [1, 2, 2] uint8 scale 0.5 zero 10 range [0, 255]\n"
            "conv = conv(image_codes) kernel [1, 1] stride [1, 1] pad [0, 0, 0, 0] weight [2, 1, 1, 1] int8 scale "
            "[0.5, 0.25] zero [0] bytes 10 -> map [2, 2, 2] uint8 scale 0.25 zero 0 range [0, 255]\n"
            "flatten = flatten(map) -> flat [8] uint8 scale 0.25 zero 0 range [0, 255]\n"
            "fc = linear(flat) weight [2, 8] int8 scale [1] zero [0] bytes 16 -> logits [2] float32\n"
            "output logits\n");
  IntegerModel saturating = sample_model();
  saturating.overflow = Overflow::kSaturate16;
  EXPECT_THAT(saturating.dump(), HasSubstr("target onnxruntime\noverflow saturate16\n"));
  const std::string dump = every_op_model().dump();
  EXPECT_THAT(dump, HasSubstr("n.gate = table(gap) leaky_relu alpha 0.1"));
  EXPECT_THAT(dump, HasSubstr("groups 2"));
  EXPECT_THAT(dump, HasSubstr("ceil divide by valid pixels"));
}

}  // namespace
}  // namespace qat::integer
