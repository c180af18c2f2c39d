#include "core/export/export.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/files.h"

namespace qat::exporter {
namespace {

/// x -> codes -> linear: the smallest useful model.
integer::IntegerModel model() {
  integer::IntegerModel m;
  m.tensors = {{.name = "x", .type = integer::CodeType::kFloat32, .shape = {2}},
               {.name = "x.codes", .shape = {2}, .scale = 0.1f, .zero_point = 4},
               {.name = "y", .type = integer::CodeType::kFloat32, .shape = {1}}};
  integer::Node quantize{.op = integer::Op::kQuantize, .name = "x.codes", .inputs = {0}, .output = 1};
  integer::Node linear{.op = integer::Op::kLinear, .name = "y", .inputs = {1}, .output = 2};
  linear.weight = {.shape = {1, 2}, .codes = {5, -7}, .scale = {0.3f}, .zero_point = {0}};
  linear.bias = {11};
  m.nodes = {quantize, linear};
  m.inputs = {0};
  m.outputs = {2};
  return m;
}

TEST(Formats, EachGivesBackTheModelAndTheSameBytes) {
  for (const std::string& name : formats().names()) {
    SCOPED_TRACE(name);
    const Format& format = formats().get(name);
    const std::string a = testing::TempDir() + "export_a" + format.extension,
                      b = testing::TempDir() + "export_b" + format.extension;
    format.write(model(), a);
    format.write(model(), b);
    EXPECT_EQ(read_file(a), read_file(b));
    EXPECT_EQ(format_of(a).read(a), model());
  }
}

TEST(Formats, UnknownEndingsAndBadPaths) {
  EXPECT_THROW(format_of("model.bin"), FileError);
  EXPECT_THROW(formats().get("safetensor"), Error);
  const Format& format = formats().get("safetensors");
  EXPECT_THROW(format.write(model(), "/dev/null/model.safetensors"), FileError);
  EXPECT_THROW(format.read(testing::TempDir() + "missing.safetensors"), FileError);
}

}  // namespace
}  // namespace qat::exporter
