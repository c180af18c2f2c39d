// Networks against torchvision's own numbers (tests/goldens/torchvision/README.md), weights made by its formula.
// QAT_TORCHVISION_GOLDENS names another folder; every *.json in it is run.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/normalization.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "core/base/error.h"
#include "models/blocks.h"
#include "models/model.h"
#include "tests/support/formula.h"

namespace qat::models {
namespace {

using at::Tensor;
using nlohmann::json;

struct Entry {
  std::string name;
  Tensor tensor;
  bool parameter;
};

/// PyTorch's state_dict order: a module's own parameters, its own buffers, then its children.
void collect(torch::nn::Module& module, const std::string& prefix, std::vector<Entry>& entries) {
  for (const auto& item : module.named_parameters(false)) entries.push_back({prefix + item.key(), item.value(), true});
  for (const auto& item : module.named_buffers(false)) entries.push_back({prefix + item.key(), item.value(), false});
  for (const auto& item : module.named_children()) collect(*item.value(), prefix + item.key() + ".", entries);
}

/// Files of the folder in alphabetical order.
std::vector<std::filesystem::path> golden_files() {
  const char* given = std::getenv("QAT_TORCHVISION_GOLDENS");
  const std::filesystem::path folder = given != nullptr ? given : QAT_SOURCE_DIR "/tests/goldens/torchvision";
  std::vector<std::filesystem::path> files;
  for (const auto& item : std::filesystem::directory_iterator(folder)) {
    if (item.path().extension() == ".json") files.push_back(item.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// One object per row of the batch: the first logits, sum, l2 and argmax. `tolerance` is of a single logit.
void expect_logits(const Tensor& logits, const json& rows, double tolerance, const std::string& what) {
  ASSERT_EQ(logits.dim(), 2) << what;
  ASSERT_EQ(logits.size(0), static_cast<int64_t>(rows.size())) << what;
  const double count = static_cast<double>(logits.size(1));
  for (size_t n = 0; n < rows.size(); ++n) {
    const json& row = rows[n];
    const Tensor found = logits[static_cast<int64_t>(n)].to(at::kDouble).contiguous();
    ASSERT_LE(static_cast<int64_t>(row["first"].size()), found.numel()) << what;
    for (size_t i = 0; i < row["first"].size(); ++i) {
      ASSERT_NEAR(found.data_ptr<double>()[i], row["first"][i].get<double>(), tolerance)
          << what << " [" << n << "][" << i << "]";
    }
    EXPECT_NEAR(found.sum().item<double>(), row["sum"].get<double>(), tolerance * count) << what << " row " << n;
    EXPECT_NEAR(found.norm().item<double>(), row["l2"].get<double>(), tolerance * std::sqrt(count))
        << what << " row " << n;
    EXPECT_EQ(found.argmax().item<int64_t>(), row["argmax"].get<int64_t>()) << what << " row " << n;
  }
}

void expect_norm_layers(torch::nn::Module& module, const json& expected) {
  using Key = std::tuple<std::string, double, double>;  // class, eps, momentum (0 for layer norm)
  std::map<Key, int64_t> found, wanted;
  for_each_layer<torch::nn::BatchNorm2d>(module, [&](torch::nn::BatchNorm2dImpl& layer) {
    ++found[{"BatchNorm2d", layer.options.eps(), layer.options.momentum().value_or(-1.0)}];
  });
  for_each_layer<torch::nn::LayerNorm>(module, [&](torch::nn::LayerNormImpl& layer) {
    ++found[{"LayerNorm", layer.options.eps(), 0.0}];
  });
  for (const json& row : expected) wanted[{row[0], row[1], row[2].is_null() ? 0.0 : row[2].get<double>()}] = row[3];
  EXPECT_EQ(found, wanted);
}

/// Names, order, shapes and dtypes; false when the numbers cannot be compared.
bool same_entries(const std::vector<Entry>& found, const json& golden) {
  int64_t parameters = 0;
  for (const Entry& entry : found) parameters += entry.parameter ? entry.tensor.numel() : 0;
  EXPECT_EQ(parameters, golden["parameter_count"].get<int64_t>());
  EXPECT_EQ(found.size(), golden["state_dict_entries"].get<size_t>());
  const json& entries = golden["entries"];
  for (size_t i = 0; i < std::min(found.size(), entries.size()); ++i) {
    const json description = {found[i].name, found[i].tensor.sizes().vec(),
                              found[i].tensor.scalar_type() == at::kLong ? "int64" : "float32",
                              found[i].parameter ? "parameter" : "buffer"};
    const json expected = {entries[i][0], entries[i][1], entries[i][2], entries[i][3]};
    EXPECT_EQ(description, expected) << "state_dict entry " << i;
    if (description != expected) return false;
  }
  return found.size() == entries.size();
}

void to_double(const Tensor& tensor) {
  if (tensor.is_floating_point()) tensor.set_data(tensor.to(at::kDouble));
}

/// Half a unit of the sixth significant digit: the norms are printed with six, coarser than their tolerance.
double print_error(double value) {
  return value == 0.0 ? 0.0 : 0.5 * std::pow(10.0, std::floor(std::log10(std::abs(value))) - 5.0);
}

void expect_training(const Model& model, const std::vector<Entry>& entries, const Tensor& input, const json& golden) {
  model.module->train();
  set_dropout(*model.module, 0.0);
  const Tensor targets = at::tensor(golden["targets"].get<std::vector<int64_t>>());
  const bool auxiliary = !golden["aux_loss_weight"].is_null();
  ASSERT_EQ(auxiliary, static_cast<bool>(model.forward_heads));
  std::vector<HeadOutput> heads;
  if (auxiliary) {
    EXPECT_EQ(model.auxiliary_weight, golden["aux_loss_weight"].get<double>());
    heads = model.forward_heads(input);
  } else {
    heads.push_back({"logits", model.forward(input)});
  }

  const double std = golden["eval_logits_f64_std"];
  expect_logits(heads[0].logits, golden["train_logits_f64"], 1e-9 * std, "training logits");
  const json& parts = golden["train_ce_parts_f64"];
  ASSERT_EQ(heads.size(), parts.size());
  Tensor loss;
  for (const HeadOutput& head : heads) {
    ASSERT_TRUE(parts.contains(head.name)) << head.name;
    const Tensor part = at::cross_entropy_loss(head.logits, targets);
    const double expected = parts[head.name];
    EXPECT_NEAR(part.item<double>(), expected, 1e-9 * expected) << head.name;
    loss = loss.defined() ? loss + model.auxiliary_weight * part : part;
  }
  const double expected_loss = golden["train_loss_f64"];
  EXPECT_NEAR(loss.item<double>(), expected_loss, 1e-9 * expected_loss);
  loss.backward();

  const double largest = golden["grad_norm_f64_max"];
  for (size_t i = 0; i < entries.size(); ++i) {
    const Tensor compared = entries[i].parameter ? entries[i].tensor.grad() : entries[i].tensor;
    ASSERT_TRUE(compared.defined()) << entries[i].name << " has no gradient";
    const double expected = golden["entries"][i][6];
    const double tolerance = 2e-6 * expected + print_error(expected) + (entries[i].parameter ? 1e-8 * largest : 0.0);
    EXPECT_NEAR(compared.to(at::kDouble).norm().item<double>(), expected, tolerance)
        << (entries[i].parameter ? "gradient of " : "buffer ") << entries[i].name;
  }
}

void check(const json& golden) {
  ASSERT_EQ(golden.at("format"), "qat-goldens/torchvision/1");
  const std::string name = golden["model"];
  const std::vector<int64_t> input_shape = golden["input_shape"];
  json options = golden["kwargs"];
  options["num_classes"] = golden["num_classes"];
  options["in_channels"] = input_shape.at(1);
  // JSON is YAML.
  const Model model = registry().get(name)(config::load_text(options.dump(), "golden", {}).root());

  std::vector<Entry> entries;
  collect(*model.module, "", entries);
  if (!same_entries(entries, golden)) return;
  expect_norm_layers(*model.module, golden["norm_layers"]);

  const double weight_k = golden["weight_k"];
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].tensor.set_data(
        test::formula(entries[i].name, entries[i].tensor.sizes(), golden["entries"][i][4], weight_k));
  }
  Tensor input = test::formula(golden["input_name"], input_shape, "input", weight_k);

  const double std = golden["eval_logits_f64_std"];
  model.module->eval();
  {
    const at::NoGradGuard guard;
    expect_logits(model.forward(input), golden["eval_logits_f64"], 5e-5 * std, "evaluation logits, float");
    for (const Entry& entry : entries) to_double(entry.tensor);
    input = input.to(at::kDouble);
    expect_logits(model.forward(input), golden["eval_logits_f64"], 1e-9 * std, "evaluation logits, double");
    if (model.forward_heads) {
      EXPECT_EQ(model.forward_heads(input).size(), 1u);
    }
  }
  expect_training(model, entries, input, golden);
}

TEST(torchvision, FormulaGivesTheReadmesVectors) {
  EXPECT_EQ(test::fnv("conv1.weight"), 0x69a29a2cee47d254u);
  const Tensor weight = test::formula("conv1.weight", {64, 3, 7, 7}, "weight", 3.0);
  EXPECT_EQ(weight.flatten()[0].item<float>(), -0.0518500134f);
  EXPECT_NEAR(weight.to(at::kDouble).sum().item<double>(), -7.44895116202, 1e-11);
  EXPECT_EQ(test::formula("input", {2, 3, 64, 64}, "input", 3.0).flatten()[4].item<float>(), -0.902221441f);
  EXPECT_EQ(test::formula("bn1.weight", {64}, "norm_weight", 3.0)[0].item<float>(), 0.673241019f);
}

TEST(torchvision, EveryGoldenIsReproduced) {
  const std::vector<std::filesystem::path> files = golden_files();
  std::cout << files.size() << " torchvision goldens\n";
  ASSERT_FALSE(files.empty());
  for (const auto& file : files) {
    SCOPED_TRACE(file.filename().string());
    try {
      std::ifstream stream(file);
      check(json::parse(stream));
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

}  // namespace
}  // namespace qat::models
