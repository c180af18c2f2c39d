// Every checkpoint golden: those that must load give exactly their tensors, hostile ones a FileError within bounded
// memory and time. QAT_CHECKPOINT_GOLDENS names another folder of such files.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <iostream>
#include <map>

#include "core/archive/weights.h"
#include "tests/archive/golden_files.h"

namespace qat::archive {
namespace {

using golden::Json;

constexpr unsigned kSeconds = 60;
constexpr rlim_t kMemory = rlim_t{1} << 30;

enum Outcome { kLoaded = 10, kRefused = 11, kOtherError = 12 };

const std::map<std::string, std::string> kTorchNames = {
    {"F64", "float64"}, {"F32", "float32"}, {"F16", "float16"}, {"BF16", "bfloat16"}, {"I64", "int64"},
    {"I32", "int32"},   {"I16", "int16"},   {"I8", "int8"},     {"U8", "uint8"},      {"BOOL", "bool"}};

/// What reading the file does, in a process of its own that may neither take more than kMemory nor kSeconds.
/// A crash is the negative of its signal.
int outcome_of(const std::string& path) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(kSeconds);
#ifndef __SANITIZE_ADDRESS__  // which reserves terabytes of address space
    const rlimit bound{kMemory, kMemory};
    if (setrlimit(RLIMIT_AS, &bound) != 0) _exit(kOtherError);
#endif
    try {
      WeightsFile::open(path);
      _exit(kLoaded);
    } catch (const FileError& error) {
      _exit(std::string_view(error.what()).starts_with(path + ": ") ? kRefused : kOtherError);
    } catch (...) {
      _exit(kOtherError);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

double expected_number(const Json& value) {
  if (!value.is_string()) return value.is_boolean() ? value.get<bool>() : value.get<double>();
  const std::string text = value.get<std::string>();
  return text == "nan" ? NAN : text == "inf" ? INFINITY : text == "-inf" ? -INFINITY : std::stod(text);
}

/// Equal to 9 digits of `scale`, or both not finite in the same way.
bool agrees(double found, double expected, double scale) {
  if (std::isnan(expected)) return std::isnan(found);
  if (std::isinf(expected)) return found == expected;
  return std::abs(found - expected) <= 6e-9 * scale + 1e-48;
}

void expect_tensor(const TensorView& found, const Json& expected) {
  SCOPED_TRACE(found.name);
  ASSERT_EQ(kTorchNames.at(found.dtype), expected.at("dtype"));
  ASSERT_EQ(found.shape, expected.at("shape").get<std::vector<int64_t>>());
  const size_t element = dtype_bytes(found.dtype);
  uint64_t count = 1;
  for (const int64_t size : found.shape) count *= static_cast<uint64_t>(size);
  ASSERT_EQ(found.bytes, count * element);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(found.data) % element, 0u);
  EXPECT_EQ(golden::sha256({static_cast<const char*>(found.data), found.bytes}), expected.at("sha256_le"));
  const Json& first = expected.at("first");
  ASSERT_EQ(first.size(), std::min<uint64_t>(count, 8));
  for (size_t i = 0; i < first.size(); ++i) {
    const double value = expected_number(first[i]);
    EXPECT_TRUE(agrees(golden::element(found, i), value, std::abs(value))) << i << ": " << golden::element(found, i);
  }
  double sum = 0.0, terms = 0.0;
  for (size_t i = 0; i < count; ++i) {
    sum += golden::element(found, i);
    terms += std::abs(golden::element(found, i));
  }
  EXPECT_TRUE(agrees(sum, expected_number(expected.at("sum")), terms)) << "sum " << sum;
}

void expect_tensors(const WeightsFile& file, const Json& expected) {
  std::map<std::string, const TensorView*> found;
  for (const TensorView& tensor : file.tensors()) found[tensor.name] = &tensor;
  EXPECT_EQ(found.size(), file.tensors().size()) << "a name comes twice";
  ASSERT_EQ(found.size(), expected.size());
  for (const Json& tensor : expected) {
    const auto at = found.find(tensor.at("name"));
    ASSERT_NE(at, found.end()) << tensor.at("name");
    expect_tensor(*at->second, tensor);
  }
}

TEST(checkpoint_golden, every_file_loads_or_is_refused_as_expected) {
  const std::vector<golden::Case> cases = golden::cases();
  std::map<std::string, int> actions;
  int loaded = 0;
  for (const golden::Case& c : cases) {
    SCOPED_TRACE(c.path);
    const std::string action = c.expected.at("action");
    ++actions[action];
    const bool may_load = action != "refuse";
    const bool may_refuse = action != "load";
    EXPECT_TRUE(action == "load" || action == "refuse" || action == "load_or_refuse" || action == "no_crash")
        << "an unknown action: " << action;
    const int outcome = outcome_of(c.path);
    EXPECT_TRUE((outcome == kLoaded && may_load) || (outcome == kRefused && may_refuse))
        << "outcome " << outcome << " for action " << action << " (" << kLoaded << " loaded, " << kRefused
        << " refused, negative: killed by that signal)";
    if (outcome == kRefused && !may_refuse) {
      EXPECT_NO_THROW(WeightsFile::open(c.path));  // prints the cause
    }
    if (outcome != kLoaded) continue;
    ++loaded;
    if (may_load && c.expected.contains("tensors")) {
      expect_tensors(WeightsFile::open(c.path), c.expected.at("tensors"));
    }
  }
  std::cout << cases.size() << " checkpoint files in " << golden::folder() << ": " << loaded << " loaded";
  for (const auto& [action, count] : actions) std::cout << ", " << count << " " << action;
  std::cout << "\n";
  EXPECT_FALSE(cases.empty()) << "no *.expected.json in " << golden::folder();
}

// The test's own tool, by the examples of FIPS 180-4.
TEST(checkpoint_golden, sha256_is_right) {
  EXPECT_EQ(golden::sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(golden::sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

}  // namespace
}  // namespace qat::archive
