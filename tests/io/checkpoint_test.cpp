#include "core/io/checkpoint.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/base/error.h"
#include "core/base/files.h"

namespace qat::io {
namespace {

std::string temporary(const std::string& name) { return testing::TempDir() + "/qat_io_" + name; }

/// Same dtype, shape and bytes (NaN equals NaN).
bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

template <class Call>
std::string checkpoint_error(const Call& call) {
  try {
    call();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no CheckpointError";
}

TEST(Checkpoint, EveryDtypeAndShapeComesBack) {
  TensorFile file;
  for (const at::ScalarType type :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort, at::kChar, at::kByte}) {
    file.tensors[std::string("arange.") + c10::toString(type)] = at::arange(6).to(type).reshape({2, 3});
  }
  file.tensors["bool"] = at::arange(4).gt(1);
  file.tensors["scalar"] = at::full({}, 7, at::kLong);
  file.tensors["empty"] = at::zeros({0, 3});
  file.tensors["special"] = at::full({2}, std::numeric_limits<float>::quiet_NaN());
  file.metadata["note"] = "text \"in quotes\"";
  const std::string path = temporary("dtypes.safetensors");
  write_tensors(path, file);
  const TensorFile back = read_tensors(path);
  EXPECT_EQ(back.metadata, file.metadata);
  ASSERT_EQ(back.tensors.size(), file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) EXPECT_TRUE(same_bits(back.tensors.at(name), tensor)) << name;
}

TEST(Checkpoint, AnyLayoutIsStoredRowMajor) {
  // 0 .. 23 as [2, 3, 2, 2]; element [0, 1, 0, 1] is 5 in row-major order whatever the strides are.
  const at::Tensor plain = at::arange(24).to(at::kFloat).reshape({2, 3, 2, 2});
  const at::Tensor channels_last = plain.contiguous(at::MemoryFormat::ChannelsLast);
  ASSERT_NE(plain.strides(), channels_last.strides());
  const at::Tensor transposed = at::arange(6).reshape({2, 3}).t();
  const std::string path = temporary("layout.safetensors");
  write_tensors(path, {{{"a", channels_last}, {"b", transposed}}, {}});
  const TensorFile back = read_tensors(path);
  EXPECT_TRUE(back.tensors.at("a").is_contiguous());
  EXPECT_EQ(back.tensors.at("a").const_data_ptr<float>()[5], 5.0F);
  EXPECT_TRUE(same_bits(back.tensors.at("a"), plain));
  EXPECT_EQ(back.tensors.at("b").const_data_ptr<int64_t>()[1], 3);  // rows of the transposed are 0 3, 1 4, 2 5
}

TEST(Checkpoint, EqualStatesGiveEqualBytes) {
  const std::string a = temporary("equal_a.safetensors"), b = temporary("equal_b.safetensors");
  write_tensors(a, {{{"x", at::ones({3})}, {"y", at::zeros({2})}}, {{"k", "v"}}});
  write_tensors(b, {{{"y", at::zeros({2})}, {"x", at::ones({3})}}, {{"k", "v"}}});
  EXPECT_EQ(read_file(a), read_file(b));
}

TEST(Checkpoint, CopyChangesTheTensorsThemselves) {
  const at::Tensor weight = at::zeros({2, 2}).contiguous();
  const at::Tensor alias = weight.view({4});
  copy_state({{"w", weight}}, {{"w", at::ones({2, 2})}}, "file");
  EXPECT_EQ(alias.sum().item<float>(), 4.0F);
}

TEST(Checkpoint, MisfitsAreAllListedAndNothingIsCopied) {
  const at::Tensor fits = at::zeros({2});
  const TensorMap into{
      {"fits", fits}, {"gone", at::zeros({1})}, {"shape", at::zeros({64, 3, 7, 7})}, {"type", at::zeros({1})}};
  const TensorMap from{{"extra", at::ones({1})},
                       {"fits", at::ones({2})},
                       {"shape", at::ones({64, 1, 7, 7})},
                       {"type", at::ones({1}, at::kDouble)}};
  EXPECT_EQ(checkpoint_error([&] { copy_state(into, from, "r18.safetensors"); }),
            "r18.safetensors: does not fit the network: 1 missing: gone; 1 unexpected: extra; 2 mismatched: shape "
            "expected [64, 3, 7, 7] F32, found [64, 1, 7, 7] F32, type expected [1] F32, found [1] F64");
  EXPECT_EQ(fits.sum().item<float>(), 0.0F);
}

TEST(Checkpoint, LongListsAreComplete) {
  TensorMap into;
  std::string names;
  for (int i = 100; i < 400; ++i) {
    into[fmt::format("t{}", i)] = at::zeros({1});
    names += fmt::format("{}t{}", i == 100 ? "" : ", ", i);
  }
  EXPECT_EQ(checkpoint_error([&] { copy_state(into, {}, "f"); }), "f: does not fit the network: 300 missing: " + names);
}

TEST(Checkpoint, TensorsThatCannotBeStoredAreNamed) {
  const std::string path = temporary("refused.safetensors");
  EXPECT_EQ(checkpoint_error([&] {
              write_tensors(path, {{{"z", at::zeros({1}, at::kComplexFloat)}}, {}});
            }),
            "z: safetensors has no dtype for ComplexFloat");
  EXPECT_EQ(checkpoint_error([&] { write_tensors(path, {{{"u", at::Tensor()}}, {}}); }), "u: the tensor is undefined");
  EXPECT_THROW(read_tensors(path), FileError);
}

TEST(Checkpoint, DamageIsFoundByChecksums) {
  const std::string path = testing::TempDir() + "/qat_checksums.safetensors";
  write_tensors(path, {{{"x", at::ones({300})}, {"y", at::zeros({2})}}, {{"note", "a long enough text"}}});
  const std::string bytes = read_file(path);
  EXPECT_EQ(read_tensors(path).metadata, (std::map<std::string, std::string>{{"note", "a long enough text"}}));
  const auto complaint = [&](size_t at, char change) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ change);
    write_file_atomic(path, damaged);
    return checkpoint_error([&] { read_tensors(path); });
  };
  EXPECT_EQ(complaint(bytes.size() - 1, 1), path + ": damaged: y does not have the checksum it was written with");
  EXPECT_EQ(complaint(bytes.size() - 100, 64), path + ": damaged: x does not have the checksum it was written with");
  EXPECT_EQ(complaint(bytes.find("enough"), 1),
            path + ": damaged: the metadata does not have the checksum it was written with");
  EXPECT_EQ(complaint(bytes.find("metadata\\"), 1),
            path + ": damaged: the list of checksums does not have the checksum it was written with");
}

}  // namespace
}  // namespace qat::io
