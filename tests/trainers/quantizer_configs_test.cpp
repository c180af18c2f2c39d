// Every file in configs/quantizers, shortened: resnet20 (width 8) trains on some images of Fashion-MNIST (synthetic
// ones where that is not installed) with all convolutions' weights on the method's grid, its loss falls, and what
// evaluation of the finished run gives is what training reported.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/nn/weighted.h"
#include "trainers/commands.h"
#include "trainers/run.h"
#include "trainers/run_folder.h"
#include "trainers/session.h"
#include "trainers/stages.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;
using at::Tensor;
using Json = nlohmann::ordered_json;

/// Methods without 2^bits levels a scale, and what is checked instead.
const std::map<std::string, std::string> kOtherGrids{
    {"winograd", "levels exist in the transform domain, which has more dimensions: what forward() gives"},
    {"bfp", "each block has a step of its own: values that quantizing again does not change"},
    {"float16", "2^16 levels: values that quantizing again does not change"},
    {"bfloat16", "2^16 levels: values that quantizing again does not change"},
};

/// The weight that the layer multiplies with, from its codes, and the one that its quantizer was given.
struct Used {
  Tensor values, given;
};

Used used_by(const nn::WeightedLayer& layer) {
  quant::Quantizer& q = *layer.weight_quantizer();
  const Tensor latent = layer.tensors().weight.detach();
  if (!layer.values_reason().empty()) return {q.forward(latent), latent};
  const auto [weight, call] = layer.quantized();
  Tensor given = latent;
  if (!call.weight_gain.empty()) given = latent * at::tensor(call.weight_gain).to(at::kFloat).view({-1, 1, 1, 1});
  return {weight.codes.to(at::kFloat) * weight.scale.view({-1, 1, 1, 1}), given};
}

void expect_on_grid(const nn::WeightedLayer& layer) {
  SCOPED_TRACE(layer.label());
  ASSERT_NE(layer.weight_quantizer(), nullptr) << "not quantized";
  quant::Quantizer& q = *layer.weight_quantizer();
  const auto [values, given] = used_by(layer);
  EXPECT_TRUE(at::equal(values, q.forward(given))) << "the layer's weight is not its quantizer's";
  EXPECT_FALSE(at::equal(values, given)) << "the latent weight is used as it is";
  if (q.traits().idempotent) {
    EXPECT_TRUE(at::equal(q.forward(values), values));
  }
  const Tensor rows = values.reshape({q.spec().scales(), -1});
  if (kOtherGrids.count(q.method()) == 0) {
    for (int64_t i = 0; i < rows.size(0); ++i) {
      const Tensor levels = std::get<0>(at::_unique(rows[i]));
      EXPECT_LE(levels.numel(), int64_t{1} << q.spec().bits) << "scale " << i;
    }
  }
  if (!q.traits().affine) return;
  const Tensor codes = rows / q.qparams().scale.detach().view({-1, 1});
  EXPECT_LT((codes - codes.round()).abs().max().item<double>(), 1e-2);
}

class QuantizerConfigs : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/qat_quantizer_configs";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainRequest request(const fs::path& config) const {
    TrainRequest r;
    r.config = config.string();
    r.out = folder_ + "/" + config.stem().string();
    const bool real = fs::exists("/usr/share/datasets/fashion-mnist");
    r.overrides = {
        std::string("data.dataset={") + (real ? "name: fashion_mnist, root: auto" : "name: synthetic, height: 28") +
            ", train_samples: 64, eval_samples: 32}",
        "data.batch_size=16", "data.workers=0", "threads=1", "stages[0].float.steps=4", "stages[2].finetune.epochs=4",
        // After a dozen steps running statistics are still those of the first ones.
        "quantization.batch_norm.reestimate=4"};
    return r;
  }

  std::string folder_;
};

TEST_F(QuantizerConfigs, TrainOnTheMethodsGridAndEvaluateExactly) {
  for (const auto& [method, grid] : kOtherGrids) std::cout << fmt::format("{:<14}{}\n", method, grid);
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(QAT_SOURCE_DIR "/configs/quantizers")) files.insert(entry.path());
  int convolutions = 0;
  for (const fs::path& file : files) {
    SCOPED_TRACE(file.filename().string());
    const TrainRequest r = request(file);
    const TrainSummary summary = train(r);
    EXPECT_EQ(summary.mismatches, summary.exports.empty() ? -1 : 0);

    std::vector<double> losses;
    double eval_loss = -1;
    std::ifstream metrics(r.out + "/metrics.jsonl");
    for (std::string line; std::getline(metrics, line);) {
      const Json entry = Json::parse(line);
      if (entry["kind"] != "finetune" || !entry.contains("train_loss")) continue;
      losses.push_back(entry["train_loss"]);
      eval_loss = entry["eval_loss"];
    }
    ASSERT_EQ(losses.size(), 4U);
    EXPECT_LT(losses.back(), losses.front());
    const Json report = eval_report(r.out, "last", "simulated");
    EXPECT_EQ(report["loss"].get<double>(), eval_loss);
    bool reported = false;
    for (const TableRow& row : summary.rows) {
      if (row.name != "fine-tuned (simulated)") continue;
      EXPECT_EQ(report["top1"].get<double>(), row.top1);
      reported = true;
    }
    EXPECT_TRUE(reported);

    Session session(load_experiment(r.out + "/config.yaml"));
    const RunCheckpoint checkpoint = read_checkpoint(r.out + "/checkpoints/last.ckpt");
    io::copy_state(session.state(), checkpoint.tensors, r.out);
    apply_phase(session, checkpoint.state.phase);
    session.net->eval();
    const at::NoGradGuard no_grad;
    for (const auto& step : session.net->steps()) {
      const auto* layer = dynamic_cast<const nn::WeightedLayer*>(step.layer.get());
      if (layer == nullptr || layer->is_linear()) continue;
      expect_on_grid(*layer);
      ++convolutions;
    }
  }
  std::cout << files.size() << " configs\n";
  EXPECT_GE(files.size(), 22U);
  EXPECT_EQ(convolutions, static_cast<int>(files.size()) * 21) << "19 of 3x3, two shortcuts";
}

}  // namespace
}  // namespace qat::trainers
