// ONNX's own checker on the files of random networks. Its library has protobuf classes of its own: only its function is
// declared here, and the files go by their names.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>

#include "core/base/files.h"
#include "core/export/onnx.h"
#include "tests/integer/random_model.h"

namespace onnx::checker {
void check_model(const std::string& path);
}

namespace qat::exporter {
namespace {

using integer::CodeType;
using integer::RandomModel;

std::string verdict(const std::string& bytes) {
  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("qat_checker_{}.onnx", ::getpid())).string();
  write_file_atomic(path, bytes);
  std::string result = "sound";
  try {
    onnx::checker::check_model(path);
  } catch (const std::exception& e) {
    result = e.what();
  }
  std::filesystem::remove(path);
  return result;
}

TEST(Checker, FindsNothingInTheFilesOfRandomNetworks) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const RandomModel random(seed, {.type = seed % 4 == 3 ? CodeType::kInt8 : CodeType::kUint8, .operators = 8});
    SCOPED_TRACE(seed);
    EXPECT_EQ(verdict(onnx_qdq(random.model())), "sound");
    EXPECT_EQ(verdict(onnx_qoperator(random.model())), "sound");
    EXPECT_EQ(verdict(onnx_float(random.model())), "sound");
  }
}

TEST(Checker, FindsWhatIsBroken) {
  const RandomModel random(1, {});
  std::string bytes = onnx_qdq(random.model());
  const size_t at = bytes.find("QuantizeLinear");
  ASSERT_NE(at, std::string::npos);
  bytes[at] = 'K';
  EXPECT_NE(verdict(bytes), "sound");
}

}  // namespace
}  // namespace qat::exporter
