// The order of the folders: each includes only from itself and from folders above it in core/README.md's map.
#include <gtest/gtest.h>

#include <array>
#include <optional>
// g++ 12 takes members inside <regex> for uninitialized when the sanitizers are on.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tests/tree/tree.h"

namespace qat::tree {
namespace {

constexpr std::array<std::string_view, 24> kOrder = {
    "base",   "archive", "config",     "registry",   "log",    "report",   "integer",  "ops",
    "device", "engine",  "export",     "judges",     "io",     "autograd", "quant",    "nn",
    "graph",  "lower",   "simulation", "quantizers", "models", "datasets", "trainers", "tools"};

/// These compile without LibTorch: the engine is deployed so, and most of the code compiles in seconds.
const std::set<std::string_view> kWithoutTorch = {"base",   "archive", "config",  "registry", "log",
                                                  "report", "integer", "ops",     "device",   "engine",
                                                  "export", "judges",  "datasets"};

/// Models are plain float nets.
const std::set<std::string_view> kUnknownToModels = {"autograd", "quant", "nn", "graph", "lower", "quantizers"};

/// The folder in kOrder that a path from the root belongs to; none for any other path.
std::optional<std::string> folder_of(const std::string& path) {
  static const std::regex kPattern("(?:core/([^/]+)|(quantizers|models|datasets|trainers|tools))/.+");
  std::smatch match;
  if (!std::regex_match(path, match, kPattern)) return std::nullopt;
  std::string folder = match[1].matched ? match[1] : match[2];
  return std::ranges::find(kOrder, folder) == kOrder.end() ? std::nullopt : std::optional(folder);
}

/// What is wrong with one line of a file at `path` (from the root); empty if nothing is.
std::string violation(const std::string& path, const std::string& line) {
  static const std::regex kInclude(R"(\s*#\s*include\s*([<"])([^>"]+)[>"].*)");
  static const std::regex kTorch("(torch|ATen|c10|caffe2)/.*");
  std::smatch match;
  if (!std::regex_match(line, match, kInclude)) return "";
  const bool quoted = match[1] == "\"";
  const std::string target = match[2];
  const std::optional<std::string> from = folder_of(path);
  if (!from) return "is in a folder that has no place in the order";
  const bool without_torch = kWithoutTorch.contains(*from) || path.starts_with("tools/qat/");
  if (std::regex_match(target, kTorch)) return without_torch ? "includes LibTorch's " + target : "";
  if (!quoted) return "";
  const std::optional<std::string> to = folder_of(target);
  if (!to) return "includes " + target + ", which is no path from the root into a folder of the order";
  if (std::ranges::find(kOrder, *to) > std::ranges::find(kOrder, *from)) {
    return "includes " + target + ", which is further down the order";
  }
  if (kWithoutTorch.contains(*from) && !kWithoutTorch.contains(*to)) {
    return "includes " + target + ", which may include LibTorch";
  }
  if (*from == "models" && kUnknownToModels.contains(*to)) {
    return "includes " + target + ", but models know nothing of quantization";
  }
  return "";
}

std::vector<std::string> ordered_files() {
  std::vector<std::string> files;
  for (const char* folder : {"core", "quantizers", "models", "datasets", "trainers", "tools"}) {
    for (const std::string& file : files_below(folder, kCodeExtensions)) files.push_back(file);
  }
  return files;
}

TEST(IncludeOrder, EveryFileIncludesOnlyFromAbove) {
  int includes = 0;
  for (const std::string& file : ordered_files()) {
    int number = 0;
    for (const std::string& line : read_lines(kRoot / file)) {
      ++number;
      includes += line.starts_with("#include");
      const std::string wrong = violation(file, line);
      EXPECT_TRUE(wrong.empty()) << file << ":" << number << " " << wrong;
    }
  }
  EXPECT_GT(includes, 100) << "the files were not found below " << kRoot;
}

TEST(IncludeOrder, EveryQuotedIncludeExists) {
  static const std::regex kQuoted("#include \"([^\"]+)\".*");
  std::vector<std::string> files = ordered_files();
  for (const std::string& file : files_below("tests", kCodeExtensions)) files.push_back(file);
  int found = 0;
  for (const std::string& file : files) {
    for (const std::string& line : read_lines(kRoot / file)) {
      std::smatch match;
      if (!std::regex_match(line, match, kQuoted)) continue;
      ++found;
      EXPECT_TRUE(std::filesystem::exists(kRoot / match[1].str())) << file << " includes " << match[1];
    }
  }
  EXPECT_GT(found, 0);
}

TEST(IncludeOrder, CheckerRefusesWhatIsBelow) {
  EXPECT_EQ(violation("core/base/text.h", "#include \"core/config/config.h\""),
            "includes core/config/config.h, which is further down the order");
  EXPECT_NE(violation("core/ops/encode.cpp", "#include \"core/engine/engine.h\""), "");
  EXPECT_NE(violation("core/judges/verify.cpp", "  #  include \"tools/qat/main.h\"  // why"), "");
  EXPECT_NE(violation("quantizers/observers/minmax.h", "#include \"models/lenet5.h\""), "");
}

TEST(IncludeOrder, CheckerRefusesLibTorchWhereItMustNotBe) {
  EXPECT_EQ(violation("core/ops/encode.cpp", "#include <ATen/core/Tensor.h>"),
            "includes LibTorch's ATen/core/Tensor.h");
  EXPECT_NE(violation("core/base/error.h", "#include \"c10/util/Exception.h\""), "");
  EXPECT_NE(violation("datasets/idx.cpp", "#include <torch/torch.h>"), "");
  EXPECT_NE(violation("tools/qat/main.cpp", "#include <torch/torch.h>"), "");
  EXPECT_EQ(violation("datasets/idx.cpp", "#include \"core/io/checkpoint.h\""),
            "includes core/io/checkpoint.h, which may include LibTorch");
}

TEST(IncludeOrder, CheckerRefusesQuantizationInModels) {
  EXPECT_EQ(violation("models/lenet5.cpp", "#include \"core/quant/quantizer.h\""),
            "includes core/quant/quantizer.h, but models know nothing of quantization");
  EXPECT_NE(violation("models/lenet5.cpp", "#include \"core/nn/conv.h\""), "");
}

TEST(IncludeOrder, CheckerRefusesPathsThatAreNotFromTheRoot) {
  EXPECT_NE(violation("core/ops/encode.cpp", "#include \"encode.h\""), "");
  EXPECT_NE(violation("core/ops/encode.cpp", "#include \"../base/error.h\""), "");
  EXPECT_NE(violation("core/ops/encode.cpp", "#include \"core/unknown/error.h\""), "");
  EXPECT_NE(violation("core/unknown/error.cpp", "#include <vector>"), "");
}

TEST(IncludeOrder, CheckerAcceptsWhatIsAbove) {
  EXPECT_EQ(violation("core/ops/encode.cpp", "#include \"core/base/error.h\""), "");
  EXPECT_EQ(violation("core/ops/cuda/encode.cu", "#include \"core/ops/encode.h\""), "");
  EXPECT_EQ(violation("core/io/checkpoint.h", "#include <torch/torch.h>"), "");
  EXPECT_EQ(violation("models/lenet5.cpp", "#include <torch/nn.h>"), "");
  EXPECT_EQ(violation("tools/qat/main.cpp", "#include \"trainers/experiment.h\""), "");
  EXPECT_EQ(violation("core/base/text.h", "#include <vector>"), "");
  EXPECT_EQ(violation("core/base/text.h", "// includes \"core/engine/engine.h\" later"), "");
}

TEST(Map, NamesEveryCoreHeader) {
  std::set<std::string> words;
  static const std::regex kWord("[A-Za-z0-9_]+");
  for (const std::string& line : read_lines(kRoot / "core/README.md")) {
    for (std::sregex_iterator word(line.begin(), line.end(), kWord); word != std::sregex_iterator(); ++word) {
      words.insert(word->str());
    }
  }
  for (const std::string& file : files_below("core", {".h", ".cuh"})) {
    EXPECT_TRUE(words.contains(std::filesystem::path(file).stem().string())) << file << " is not in core/README.md";
  }
}

}  // namespace
}  // namespace qat::tree
