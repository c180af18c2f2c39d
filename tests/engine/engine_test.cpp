#include "core/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>

#include "core/base/error.h"
#include "tests/integer/sample_model.h"

namespace qat::engine {
namespace {

using integer::codes;
using integer::IntegerModel;
using integer::node;
using integer::Op;
using testing::ElementsAre;
using testing::HasSubstr;

Value values(int64_t batch, std::vector<float> v) { return {.batch = batch, .codes = {}, .values = std::move(v)}; }
Value bytes(int64_t batch, std::vector<uint8_t> c) { return {.batch = batch, .codes = std::move(c), .values = {}}; }

std::string error_of(const Engine& engine, const std::vector<Value>& inputs) {
  try {
    engine.run(inputs);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

std::vector<float> random_values(size_t n) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 5.0f);
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

TEST(engine, a_small_net_by_hand) {
  const Engine engine(integer::sample_model());
  std::map<int, std::vector<uint8_t>> seen;
  std::vector<int> order;
  const std::vector<Value> out =
      engine.run({values(2, {0, 1, -1, 100, 0, 0, 0, 0})}, [&](int tensor, const Value& value) {
        order.push_back(tensor);
        seen[tensor] = value.codes;
        EXPECT_EQ(value.batch, 2);
      });
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
  // x / 0.5 + 10.
  EXPECT_THAT(seen[1], ElementsAre(10, 12, 8, 210, 10, 10, 10, 10));
  // Channel 0: 2 (q - 10) + 1 = 1, 5, -3, 401, times 1. Channel 1: (-4 (q - 10) + 40) / 2 = 20, 16, 24, -380. NHWC.
  EXPECT_THAT(seen[2], ElementsAre(1, 20, 5, 16, 0, 24, 255, 0, 1, 20, 1, 20, 1, 20, 1, 20));
  // The linear layer sees channel 0 first.
  EXPECT_THAT(seen[3], ElementsAre(1, 5, 0, 255, 20, 16, 24, 0, 1, 1, 1, 1, 20, 20, 20, 20));
  // (1 + 2*5 + 4*255) / 4, (4*20 + 3*16 + 2*24) / 4; 10 / 4, 200 / 4.
  ASSERT_EQ(out.size(), 1u);
  EXPECT_THAT(out[0].values, ElementsAre(257.75f, 44.0f, 2.5f, 50.0f));
  EXPECT_TRUE(out[0].codes.empty());
}

TEST(engine, int8_codes_are_bit_patterns_and_weights_have_zero_points_per_channel) {
  IntegerModel m;
  m.tensors = {codes("x", {3}, 1, -1, integer::CodeType::kInt8), codes("y", {2}, 2, 3, integer::CodeType::kInt8)};
  m.nodes = {node(Op::kLinear, "fc", {0}, 1)};
  m.nodes[0].weight = {.type = integer::CodeType::kUint8,
                       .shape = {2, 3},
                       .codes = {255, 0, 10, 3, 2, 1},
                       .scale = {1},
                       .zero_point = {10, 2}};
  m.inputs = {0};
  m.outputs = {1};
  // x + 1 = -127, 1, 2 by w = 245, -10, 0 and 1, 0, -1: -31125 (saturates), -129 / 2 = -64.5 -> -64, + 3.
  const std::vector<Value> out = Engine(m).run({bytes(1, {0x80, 0x00, 0x01})});
  EXPECT_THAT(out[0].codes, ElementsAre(0x80, static_cast<uint8_t>(-61)));
}

TEST(engine, a_narrow_range_of_codes_limits_every_output) {
  IntegerModel m = integer::sample_model();
  m.tensors[2].hi = m.tensors[3].hi = 15;
  const Engine engine(m);
  std::vector<uint8_t> map;
  engine.run({values(1, {0, 1, -1, 100})}, [&](int tensor, const Value& value) {
    if (tensor == 2) map = value.codes;
  });
  EXPECT_THAT(map, ElementsAre(1, 15, 5, 15, 0, 15, 15, 0));
}

TEST(engine, small_weights_give_the_same_codes) {
  IntegerModel m;
  m.tensors = {codes("x", {24, 6, 6}, 1, 0), codes("y", {40, 6, 6}, 64, 100)};
  m.nodes = {node(Op::kConv, "conv", {0}, 1)};
  m.nodes[0].kernel = {3, 3};
  m.nodes[0].pad = {1, 1, 1, 1};
  m.nodes[0].weight = {
      .type = integer::CodeType::kInt8, .shape = {40, 24, 3, 3}, .codes = {}, .scale = {1}, .zero_point = {0}};
  for (int i = 0; i < 40 * 24 * 9; ++i) m.nodes[0].weight.codes.push_back(static_cast<int16_t>(i * 7 % 16 - 8));
  m.inputs = {0};
  m.outputs = {1};
  Value x{.batch = 2};
  for (int i = 0; i < 2 * 24 * 36; ++i) x.codes.push_back(static_cast<uint8_t>(i * 31));
  const Engine fast(m), small(m, Weights::kSmall);
  EXPECT_EQ(small.run({x})[0].codes, fast.run({x})[0].codes);
  // The kernel that takes bytes needs AVX2.
  if (fast.weight_bytes() < 2 * 40 * 24 * 9) {
    EXPECT_LT(small.weight_bytes(), fast.weight_bytes() * 3 / 5);
  }
}

TEST(engine, relu_and_concat_by_hand) {
  IntegerModel m;
  m.tensors = {codes("a", {1, 1, 2}, 1, 4), codes("r", {1, 1, 2}, 1, 4), codes("b", {2, 1, 2}, 0.5f, 0),
               codes("y", {3, 1, 2}, 1, 4)};
  m.nodes = {node(Op::kRelu, "relu", {0}, 1), node(Op::kConcat, "cat", {1, 2}, 3)};
  m.inputs = {0, 2};
  m.outputs = {3, 0};
  const std::vector<Value> out = Engine(m).run({bytes(1, {3, 9}), bytes(1, {1, 2, 3, 255})});
  // relu: 4, 9, copied; b: q / 2 + 4 = 0.5 -> 0, 1, 1.5 -> 2, 127.5 -> 128, plus 4.
  EXPECT_THAT(out[0].codes, ElementsAre(4, 4, 5, 9, 6, 132));
  EXPECT_THAT(out[1].codes, ElementsAre(3, 9));  // an input may be an output
}

TEST(engine, accumulators_wrap_around) {
  IntegerModel m = integer::sample_model();
  m.nodes[1].bias = {std::numeric_limits<int32_t>::max(), 0};
  EXPECT_THROW(m.check_accumulators(), Error);
  std::vector<uint8_t> map;
  Engine(m).run({values(1, {0, 1, 0, 0})}, [&](int tensor, const Value& value) {
    if (tensor == 2) map = value.codes;
  });
  EXPECT_EQ(map[0], 255);
  EXPECT_EQ(map[2], 0);  // 2^31 - 1 + 4 = -2^31 + 3
}

TEST(engine, samples_do_not_depend_on_their_batch) {
  const Engine engine(integer::every_op_model());
  constexpr int64_t kBatch = 9, kSize = 32;
  const std::vector<float> x = random_values(kBatch * kSize);
  std::map<int, Value> seen;
  const std::vector<Value> all = engine.run({values(kBatch, x)}, [&](int tensor, const Value& v) { seen[tensor] = v; });
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].values, seen[13].values);
  EXPECT_EQ(all[1].codes, seen[7].codes);
  for (int64_t n = 0; n < kBatch; ++n) {
    const auto first = x.begin() + n * kSize;
    const std::vector<Value> one = engine.run({values(1, {first, first + kSize})});
    EXPECT_THAT(one[0].values, testing::ElementsAreArray(&all[0].values[n * 3], 3));
    EXPECT_THAT(one[1].codes, testing::ElementsAreArray(&all[1].codes[n * 16], 16));
  }
  // The outputs are not all the same.
  EXPECT_NE(*std::min_element(all[1].codes.begin(), all[1].codes.end()),
            *std::max_element(all[1].codes.begin(), all[1].codes.end()));
}

TEST(engine, large_batches_are_convolved_in_parts) {
  // 2^18 accumulators a sample: 8 samples at a time.
  IntegerModel m;
  m.tensors = {codes("x", {1, 128, 128}, 1, 0), codes("y", {16, 128, 128}, 1, 0)};
  m.nodes = {node(Op::kConv, "conv", {0}, 1)};
  m.nodes[0].weight = {.type = integer::CodeType::kInt8,
                       .shape = {16, 1, 1, 1},
                       .codes = std::vector<int16_t>(16, 2),
                       .scale = {1},
                       .zero_point = {0}};
  m.inputs = {0};
  m.outputs = {1};
  constexpr int64_t kBatch = 19, kPixels = 128 * 128;
  std::vector<uint8_t> x(kBatch * kPixels);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i % 127);
  const std::vector<Value> y = Engine(m).run({bytes(kBatch, x)});
  int64_t wrong = 0;
  for (size_t i = 0; i < y[0].codes.size(); ++i) wrong += y[0].codes[i] != 2 * x[i / 16];
  EXPECT_EQ(y[0].codes.size(), 16 * x.size());
  EXPECT_EQ(wrong, 0);
}

TEST(engine, refuses_a_model_that_is_not_well_formed) {
  IntegerModel m = integer::sample_model();
  m.nodes[1].weight.codes.clear();
  EXPECT_THROW(Engine{m}, Error);
}

TEST(engine, refuses_inputs_that_do_not_fit) {
  const Engine engine(integer::sample_model());
  EXPECT_THAT(error_of(engine, {}), HasSubstr("expected 1 inputs, found 0"));
  EXPECT_THAT(error_of(engine, {values(1, {1, 2, 3})}), HasSubstr("input image: expected 4 values (1 samples of 4)"));
  EXPECT_THAT(error_of(engine, {values(0, {})}), HasSubstr("batch"));
  EXPECT_THAT(error_of(engine, {values(-1, {})}), HasSubstr("batch"));
  EXPECT_THAT(error_of(engine, {values(int64_t{1} << 62, {1})}), HasSubstr("batch"));
  EXPECT_THAT(error_of(engine, {bytes(1, {1, 2, 3, 4})}), HasSubstr("found 0 (and 4 of the other kind)"));

  IntegerModel m;
  m.tensors = {codes("a", {2}, 1, 0), codes("b", {2}, 1, 0), codes("y", {2}, 1, 0)};
  m.tensors[1].hi = 15;
  m.nodes = {node(Op::kAdd, "add", {0, 1}, 2)};
  m.inputs = {0, 1};
  m.outputs = {2};
  const Engine sum(m);
  EXPECT_THAT(error_of(sum, {bytes(2, {1, 2, 3, 4}), bytes(1, {1, 2})}), HasSubstr("input b: expected a batch of 2"));
  EXPECT_THAT(error_of(sum, {bytes(1, {1, 2}), bytes(1, {1, 16})}), HasSubstr("input b: code 16 lies outside [0, 15]"));
  EXPECT_THAT(sum.run({bytes(1, {250, 2}), bytes(1, {9, 15})})[0].codes, ElementsAre(255, 17));
}

}  // namespace
}  // namespace qat::engine
