#include "core/io/weights.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace qat::io {
namespace {

const std::string kGoldens = QAT_SOURCE_DIR "/tests/goldens/checkpoints/";

TEST(Weights, BothFormatsComeBack) {
  const at::Tensor whole = at::arange(12, at::kFloat).reshape({3, 4});
  const TensorMap written{{"a.weight", whole}, {"b", whole.t()}, {"count", at::arange(3, at::kLong).select(0, 2)}};
  for (const char* name : {"/qat_weights.pth", "/qat_weights.safetensors"}) {
    const std::string path = testing::TempDir() + name;
    write_weights(path, written);
    const TensorMap found = read_weights(path);
    ASSERT_EQ(found.size(), written.size());
    for (const auto& [key, tensor] : written) {
      EXPECT_EQ(found.at(key).scalar_type(), tensor.scalar_type());
      EXPECT_TRUE(at::equal(found.at(key), tensor)) << key;
    }
  }
  EXPECT_THROW(write_weights(testing::TempDir() + "/qat_weights.bin", written), FileError);
}

// The same network as .pth in both formats and as .safetensors.
TEST(Weights, EveryFormatGivesTheSameTensors) {
  const TensorMap expected = read_weights(kGoldens + "tiny.safetensors");
  EXPECT_EQ(expected.size(), 38u);
  for (const char* file : {"tiny_zip.pth", "tiny_legacy.pth", "tiny_dataparallel.pth"}) {
    const TensorMap found = read_weights(kGoldens + file);
    ASSERT_EQ(found.size(), expected.size()) << file;
    for (const auto& [name, tensor] : expected) EXPECT_TRUE(at::equal(found.at(name), tensor)) << file << " " << name;
  }
}

// First values from dtypes_zip.pth.expected.json.
TEST(Weights, HalvesBecomeFloats) {
  const TensorMap found = read_weights(kGoldens + "dtypes_zip.pth");
  for (const auto& [name, first] : {std::pair{"f16", -1.27246094f}, {"bf16", -1.2734375f}}) {
    EXPECT_EQ(found.at(name).scalar_type(), at::kFloat);
    EXPECT_EQ(found.at(name).flatten()[0].item<float>(), first);
  }
  EXPECT_EQ(found.at("f64").scalar_type(), at::kDouble);
  EXPECT_EQ(found.at("bool").scalar_type(), at::kBool);
}

}  // namespace
}  // namespace qat::io
