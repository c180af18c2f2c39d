// Training from image files, with everything that draws random numbers.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "core/base/files.h"
#include "tests/datasets/pictures.h"
#include "trainers/run.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = R"(seed: 1
threads: 1
data:
  dataset: {name: image_folder, root: images, on_error: skip}
  batch_size: 8
  workers: 2
  train:
    - {random_resized_crop: {size: 28, scale: [0.5, 1]}}
    - horizontal_flip
    - {color_jitter: {brightness: 0.2, hue: 0.02}}
    - rand_augment
    - {normalize: {mean: [0.5], std: [0.25]}}
    - random_erasing
  eval:
    - {resize: {size: 32}}
    - {center_crop: {size: 28}}
    - {normalize: {mean: [0.5], std: [0.25]}}
model: {name: lenet5, in_channels: 3, num_classes: 3}
quantization:
  weight: {quantizer: lsq}
  calibration: {batches: 2}
stages:
  - float:
      epochs: 2
      label_smoothing: 0.1
      mixup_alpha: 0.2
      cutmix_alpha: 1
      clip_grad_norm: 1
      optimizer: {name: adamw, lr: 0.002}
      schedule: {name: one_cycle}
  - calibrate
  - finetune:
      epochs: 1
      clip_grad_value: 0.1
      optimizer: {name: lamb, lr: 0.002, quantizer_lr: 0.0005}
      schedule: {name: polynomial, warmup_steps: 2}
  - export: [{format: safetensors}]
  - verify
checkpoint: {every: 2}
)";

struct Killed {};

class ImageTraining : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = datasets::temp_folder("training");
    for (int label = 0; label < 3; ++label) {
      const std::string name = "class" + std::to_string(label);
      for (int i = 0; i < 12; ++i) {
        const std::string file = std::to_string(i) + (i % 2 == 0 ? ".jpg" : ".png");
        const int tone = 60 + 10 * i;
        const int red = label == 0 ? 200 : tone, green = label == 1 ? 200 : tone, blue = label == 2 ? 200 : tone;
        datasets::write_picture(folder_ / "images/train" / name / file, 20 + 3 * i, 40 + label, red, green, blue);
        if (i < 4) datasets::write_picture(folder_ / "images/val" / name / file, 30 + i, 25, red, green, blue);
      }
    }
    datasets::write_text((folder_ / "images/train/class1/damaged.jpg").string(), "damaged");
    datasets::write_text((folder_ / "small.yaml").string(), kConfig);
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainRequest request(const std::string& name, const std::string& config) const {
    TrainRequest r;
    r.config = config;
    r.out = (folder_ / name).string();
    r.overrides = {"data.dataset.root=" + (folder_ / "images").string()};
    return r;
  }
  TrainRequest request(const std::string& name) const { return request(name, (folder_ / "small.yaml").string()); }

  std::map<std::string, std::string> promised(const std::string& name) const {
    std::map<std::string, std::string> files;
    for (const char* file : {"metrics.jsonl", "checkpoints/last.ckpt", "export/model.safetensors"}) {
      const std::string bytes = read_file((folder_ / name / file).string());
      files[file] = bytes.size() < 20000 ? bytes : fmt::format("{} bytes {:x}", bytes.size(), hash_string(bytes));
    }
    return files;
  }

  fs::path folder_;
};

TEST_F(ImageTraining, RunsAndAKilledRunContinuesToTheSameBytes) {
  const TrainSummary summary = train(request("whole"));
  EXPECT_EQ(summary.mismatches, 0);
  EXPECT_GT(summary.compared, 0);
  const std::string log = read_file((folder_ / "whole/log.txt").string());
  const std::string told = "1 damaged images were replaced by others so far, among them";
  int times = 0;
  for (size_t at = log.find(told); at != std::string::npos; at = log.find(told, at + 1)) ++times;
  EXPECT_EQ(times, 2) << "once a training stage, not once an epoch";
  EXPECT_NE(log.find("class1/damaged.jpg"), std::string::npos);

  TrainRequest part = request("parts");
  part.resume = true;
  for (const auto& [stage, at] : {std::pair{0, 3}, {0, 5}, {2, 1}, {2, 3}}) {
    part.on_step = [stage = stage, at = at](int64_t in, int64_t step) {
      if (in == stage && step == at) throw Killed();
    };
    EXPECT_THROW(train(part), Killed) << stage << " " << at;
  }
  part.on_step = nullptr;
  part.overrides.emplace_back("data.workers=0");
  train(part);
  EXPECT_EQ(promised("parts"), promised("whole"));
}

TEST_F(ImageTraining, FailNamesTheDamagedFile) {
  TrainRequest r = request("run");
  r.overrides.emplace_back("data.dataset.on_error=fail");
  try {
    train(r);
    FAIL() << "expected a FileError";
  } catch (const FileError& error) {
    EXPECT_NE(std::string(error.what()).find("class1/damaged.jpg: expected a JPEG"), std::string::npos) << error.what();
  }
}

TEST_F(ImageTraining, TheExampleConfigRuns) {
  TrainRequest r = request("run", QAT_SOURCE_DIR "/configs/image_folder_resnet18_w8a8.yaml");
  for (const char* text :
       {"model.num_classes=3", "data.batch_size=4", "data.train[0].random_resized_crop.size=32",
        "data.eval[0].resize.size=36", "data.eval[1].center_crop.size=32", "threads=1", "stages[0].float.steps=1",
        "stages[2].finetune.steps=1", "quantization.calibration.batches=2"}) {
    r.overrides.emplace_back(text);
  }
  EXPECT_EQ(train(r).mismatches, 0);
}

}  // namespace
}  // namespace qat::trainers
