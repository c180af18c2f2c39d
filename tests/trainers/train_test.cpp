#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/files.h"
#include "core/io/checkpoint.h"
#include "trainers/commands.h"
#include "trainers/experiment.h"
#include "trainers/run.h"
#include "trainers/run_folder.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Small, with all that a checkpoint must keep: momentum, learned scales, an observer, a schedule, random flips, two
/// epochs, a freeze in the middle of one, and checkpoints that are not in step with the epochs.
constexpr const char* kConfig = R"(seed: 3
threads: 1
data:
  dataset: {name: synthetic, train_samples: 128, eval_samples: 48}
  batch_size: 16
  workers: 1
  train: [horizontal_flip, {normalize: {mean: [0.5], std: [0.25]}}]
  eval: [{normalize: {mean: [0.5], std: [0.25]}}]
model: {name: lenet5, in_channels: 1}
quantization:
  weight: {quantizer: lsq}
  batch_norm: {freeze_at: {step: 10}}
  calibration: {batches: 2}
stages:
  - float: {epochs: 2, optimizer: {name: sgd, lr: 0.02}}
  - calibrate
  - finetune: {epochs: 2, optimizer: {name: sgd, lr: 0.002, nesterov: true}, schedule: {name: cosine, warmup_epochs: 0.5}}
  - export: [{format: safetensors}]
  - verify
checkpoint: {every: 3}
)";

struct Killed {};

class Train : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = testing::TempDir() + "/qat_train_" + info->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write_file_atomic(config(), kConfig);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string config() const { return folder_ + "/small.yaml"; }
  std::string out(const std::string& name) const { return folder_ + "/" + name; }

  TrainRequest request(const std::string& name, bool resume = false) const {
    TrainRequest r;
    r.config = config();
    r.out = out(name);
    r.resume = resume;
    return r;
  }

  template <class E>
  std::string error_of(const TrainRequest& r) const {
    try {
      train(r);
    } catch (const E& error) {
      return error.what();
    }
    return "not the expected error";
  }

  /// Everything that a run promises to repeat.
  std::map<std::string, std::string> promised(const std::string& name) const {
    std::map<std::string, std::string> files;
    for (const char* file : {"metrics.jsonl", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
                             "export/model.safetensors", "config.yaml"}) {
      // Digests of the large ones: a failure would print, and compare, megabytes.
      const std::string bytes = read_file(out(name) + "/" + file);
      files[file] = bytes.size() < 20000 ? bytes : fmt::format("{} bytes {:x}", bytes.size(), hash_string(bytes));
    }
    return files;
  }

  std::string folder_;
};

TEST_F(Train, EveryStageRunsAndTheExportVerifies) {
  const TrainSummary summary = train(request("run"));
  ASSERT_EQ(summary.rows.size(), 4U);
  EXPECT_EQ(summary.rows[0].name, "float");
  EXPECT_EQ(summary.rows[1].name, "calibrated");
  EXPECT_EQ(summary.rows[2].name, "fine-tuned (simulated)");
  EXPECT_EQ(summary.rows[3].name, "integer engine");
  EXPECT_EQ(summary.rows[2].top1, summary.rows[3].top1);
  EXPECT_EQ(summary.mismatches, 0);
  EXPECT_GT(summary.compared, 48 * 10);
  // conv1 832 + bn 64 + conv2 51264 + bn 128 + fc1 524800 + fc2 5130 parameters of 4 bytes.
  EXPECT_EQ(summary.rows[0].bytes, 4U * (832 + 64 + 51264 + 128 + 524800 + 5130));
  EXPECT_LT(summary.rows[3].bytes, summary.rows[0].bytes / 3);

  double first = 0, last = 0;
  int epochs = 0;
  std::ifstream metrics(out("run") + "/metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    const Json entry = Json::parse(line);
    if (!entry.contains("train_loss")) continue;
    (epochs++ == 0 ? first : last) = entry["train_loss"];
  }
  EXPECT_EQ(epochs, 4);
  EXPECT_LT(last, first);

  const Json simulated = eval_report(out("run"), "last", "simulated"),
             integer = eval_report(out("run"), "last", "integer");
  EXPECT_EQ(simulated["top1"], summary.rows[3].top1);
  for (const char* key : {"top1", "top5", "loss", "samples"}) EXPECT_EQ(simulated[key], integer[key]) << key;
  EXPECT_EQ(eval_report(out("run"), "best", "")["runtime"], "simulated");
  const Json report = verify_report(out("run"), summary.exports.at(0), 20, {"engine"});
  EXPECT_EQ(report["samples"], 20);
  EXPECT_EQ(report["mismatches"], 0);
  EXPECT_EQ(report["passed"], true);
  EXPECT_EQ(report["judges"][0]["name"], "engine");
  EXPECT_EQ(verify_report(out("run"), summary.exports.at(0), 20, {"engine", "onnxruntime"})["passed"], false);
  export_report(out("run"), "safetensors", out("again.safetensors"), std::nullopt, std::nullopt);
  EXPECT_EQ(read_file(out("again.safetensors")), read_file(summary.exports.at(0)));
  EXPECT_EQ(inspect_report(out("run"), "", std::nullopt)["quantized_layers"], 4);
}

TEST_F(Train, CudaNeedsAGpuAndAutoGoesOnWithoutOne) {
  setenv("QAT_CUDA_LIBRARY", "/no/such/libqat_cuda.so", 1);
  TrainRequest r = request("run");
  r.overrides = {"device=cuda"};
  const std::string message = error_of<ConfigError>(r);
  EXPECT_TRUE(message.starts_with("device: cuda cannot be used: this build has no CUDA kernels (/no/such/")) << message;
  EXPECT_FALSE(fs::exists(out("run")));
  r.overrides = {"device=auto", "stages[0].float.steps=1", "stages[2].finetune.steps=1"};
  train(r);
  EXPECT_NE(read_file(out("run") + "/config.yaml").find("\ndevice: cpu\n"), std::string::npos);
  unsetenv("QAT_CUDA_LIBRARY");
}

TEST_F(Train, VerifyFindsAChangedFile) {
  const TrainSummary summary = train(request("run"));
  io::TensorFile file = io::read_tensors(summary.exports.at(0));
  at::Tensor bias = file.tensors.at("conv1.bias");
  bias.data_ptr<int32_t>()[0] += 2000;
  io::write_tensors(out("changed.safetensors"), file);
  const Json report = verify_report(out("run"), out("changed.safetensors"), std::nullopt, {});
  EXPECT_GT(report["mismatches"], 0);
  EXPECT_EQ(report["passed"], false);
}

TEST_F(Train, AKilledRunContinuesToTheSameBytes) {
  train(request("whole"));
  const auto expected = promised("whole");
  // {stage, step}: before the first checkpoint, behind one, at epoch ends (with their evaluation to come), in the live
  // and in the frozen phase, at the last step.
  const std::vector<std::pair<int64_t, int64_t>> kills{{0, 2}, {0, 4}, {0, 8},  {0, 16},
                                                       {2, 1}, {2, 9}, {2, 11}, {2, 16}};
  TrainRequest part = request("parts", true);
  for (const auto& kill : kills) {
    part.on_step = [&](int64_t stage, int64_t step) {
      if (stage == kill.first && step == kill.second) throw Killed();
    };
    EXPECT_THROW(train(part), Killed) << kill.first << " " << kill.second;
  }
  part.on_step = nullptr;
  part.overrides = {"data.workers=0"};
  train(part);
  EXPECT_EQ(promised("parts"), expected);
}

TEST_F(Train, AStoppedRunContinuesToTheSameBytes) {
  train(request("whole"));
  std::atomic<bool> stop{false};
  TrainRequest part = request("parts", true);
  part.stop = &stop;
  // Step 5 is between two checkpoints; 8 is an epoch's end; 16 the stage's.
  for (const int64_t at : {5, 8, 16}) {
    stop = false;
    int64_t seen = 0;
    part.on_step = [&](int64_t stage, int64_t step) {
      seen = step;
      if (stage == 2 && step == at) stop = true;
    };
    EXPECT_NE(error_of<Interrupted>(part).find("stopped"), std::string::npos);
    EXPECT_EQ(seen, at);
    EXPECT_EQ(read_checkpoint(out("parts") + "/checkpoints/last.ckpt").state.step, at);
  }
  stop = false;
  part.on_step = nullptr;
  train(part);
  EXPECT_EQ(promised("parts"), promised("whole"));
}

TEST_F(Train, AFinishedRunGivesItsSummaryAgain) {
  const TrainSummary first = train(request("run"));
  const auto files = promised("run");
  TrainRequest again = request("run", true);
  again.on_step = [](int64_t, int64_t) { FAIL() << "nothing is left to train"; };
  const TrainSummary second = train(again);
  EXPECT_EQ(promised("run"), files);
  EXPECT_EQ(second.exports, first.exports);
  EXPECT_EQ(second.compared, first.compared);
  ASSERT_EQ(second.rows.size(), first.rows.size());
  for (size_t i = 0; i < first.rows.size(); ++i) {
    EXPECT_EQ(second.rows[i].name, first.rows[i].name);
    EXPECT_EQ(second.rows[i].top1, first.rows[i].top1);
    EXPECT_EQ(second.rows[i].bytes, first.rows[i].bytes);
  }
}

TEST_F(Train, AnExistingFolderIsNotTouched) {
  TrainRequest r = request("run");
  r.overrides = {"stages=[{float: {epochs: 1}}]"};
  train(r);
  const std::string before = read_file(out("run") + "/checkpoints/last.ckpt");
  EXPECT_EQ(error_of<UsageError>(r),
            out("run") + ": exists already; continue that run with --resume, or choose another folder with --out");
  r.resume = true;
  r.overrides.push_back("seed=4");
  EXPECT_EQ(error_of<ConfigError>(r), out("run") +
                                          ": the config differs from the run's: seed: 3 in the run, 4 now; undo "
                                          "the change, allow it with --allow KEY, or start another run with --out");
  EXPECT_EQ(read_file(out("run") + "/checkpoints/last.ckpt"), before);
}

TEST_F(Train, AnOutputUnderAFileIsRefused) {
  write_file_atomic(out("file"), "text");
  const std::string message = error_of<FileError>(request("file/run"));
  EXPECT_EQ(message.find(out("file") + "/run: cannot create the folder"), 0U) << message;
  EXPECT_EQ(read_file(out("file")), "text");
}

TEST_F(Train, WeightsOfAnotherShapeAreRefusedBeforeAnythingIsWritten) {
  TrainRequest r = request("first");
  r.overrides = {"stages=[{float: {steps: 1}}]"};
  train(r);
  TrainRequest second = request("second");
  second.overrides = {"model.weights=" + out("first"), "model.num_classes=12"};
  EXPECT_EQ(error_of<CheckpointError>(second),
            out("first") +
                "/checkpoints/last.ckpt: does not fit the network: 2 mismatched: fc2.bias expected [12] F32, "
                "found [10] F32, fc2.weight expected [12, 512] F32, found [10, 512] F32");
  EXPECT_FALSE(fs::exists(out("second")));
  second.overrides = {"model.weights=" + out("absent.safetensors")};
  EXPECT_EQ(error_of<FileError>(second).find(out("absent.safetensors") + ": "), 0U);
}

TEST_F(Train, WeightsOfARunAreItsTrainedOnes) {
  TrainRequest r = request("first");
  r.overrides = {"stages=[{float: {epochs: 1}}]"};
  const double top1 = train(r).rows.at(0).top1;
  TrainRequest second = request("second");
  // A learning rate of 0: only batch norm's statistics move; with one step and momentum 0.1 the network stays close.
  second.overrides = {"model.weights=" + out("first"), "stages=[{float: {steps: 1, optimizer: {name: sgd, lr: 0}}}]"};
  train(second);
  const RunCheckpoint a = read_checkpoint(out("first") + "/checkpoints/last.ckpt");
  const RunCheckpoint b = read_checkpoint(out("second") + "/checkpoints/last.ckpt");
  EXPECT_TRUE(a.tensors.at("fc1.weight").equal(b.tensors.at("fc1.weight")));
  EXPECT_GE(top1, 0.0);
}

TEST_F(Train, DivergenceStopsTheRunAndKeepsTheCheckpoint) {
  TrainRequest r = request("run");
  r.overrides = {"stages[0].float.optimizer.lr=1e30"};
  const std::string message = error_of<Error>(r);
  EXPECT_EQ(message.find("stage float step "), 0U) << message;
  EXPECT_NE(message.find("training diverged: the loss is "), std::string::npos) << message;
  EXPECT_NE(message.find(" is not finite; lower the learning rate and go on with --resume"), std::string::npos)
      << message;
}

TEST_F(Train, NetworksThatDoNotFitTheDataAreRefused) {
  TrainRequest r = request("run");
  r.overrides = {"model.in_channels=3"};
  const std::string channels = error_of<GraphError>(r);
  EXPECT_NE(channels.find("[N, 1, 28, 28]"), std::string::npos) << channels;
  EXPECT_NE(channels.find("to have 3 channels, but got 1 channels"), std::string::npos) << channels;
  r.overrides = {"model.num_classes=4"};
  const std::string classes = error_of<ConfigError>(r);
  EXPECT_NE(classes.find("the network's output is [4] for each image, the dataset has 10 classes"), std::string::npos)
      << classes;
  EXPECT_FALSE(fs::exists(out("run")));
}

TEST_F(Train, BadDataIsOneClearLine) {
  TrainRequest r = request("run");
  r.overrides = {"data.dataset={name: fashion_mnist, root: " + out("nowhere") + "}"};
  EXPECT_NE(error_of<FileError>(r).find(out("nowhere")), std::string::npos);
  r.config = out("absent.yaml");
  EXPECT_EQ(error_of<FileError>(r), out("absent.yaml") + ": cannot open: No such file or directory");
  EXPECT_FALSE(fs::exists(out("run")));
}

/// Limits the size of the files that this process may write, like a disk that is nearly full.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST_F(Train, AFullDiskKeepsTheLastCheckpoint) {
  TrainRequest r = request("run", true);
  r.on_step = [](int64_t stage, int64_t step) {
    if (stage == 0 && step == 5) throw Killed();
  };
  EXPECT_THROW(train(r), Killed);
  const std::string path = out("run") + "/checkpoints/last.ckpt";
  const std::string before = read_file(path);
  r.on_step = nullptr;
  {
    const FileSizeLimit limit(1 << 20);  // a checkpoint has 4.6 MB
    EXPECT_EQ(error_of<FileError>(r), path + ": cannot write: File too large");
  }
  EXPECT_EQ(read_file(path), before);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(out("run") + "/checkpoints")) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"last.ckpt", "previous.ckpt"}));
  EXPECT_EQ(train(r).mismatches, 0);
}

TEST_F(Train, ADamagedCheckpointFallsBackToTheOneBeforeIt) {
  train(request("whole"));
  const auto expected = promised("whole");
  const auto flip = [](std::string bytes, size_t at) {
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    return bytes;
  };
  TrainRequest r = request("run", true);
  const std::string last = out("run") + "/checkpoints/last.ckpt", previous = out("run") + "/checkpoints/previous.ckpt";
  // Steps 3 and 6 have checkpoints. Damage: cut, one bit of a tensor, one bit of the state, no file at all.
  for (const int damage : {0, 1, 2, 3}) {
    fs::remove_all(out("run"));
    r.on_step = [](int64_t, int64_t step) {
      if (step == 7) throw Killed();
    };
    EXPECT_THROW(train(r), Killed);
    const std::string bytes = read_file(last);
    EXPECT_EQ(read_checkpoint(last).state.step, 6);
    EXPECT_EQ(read_checkpoint(previous).state.step, 3);
    if (damage == 0) write_file_atomic(last, bytes.substr(0, bytes.size() / 2));
    if (damage == 1) write_file_atomic(last, flip(bytes, bytes.size() - 100));
    if (damage == 2) write_file_atomic(last, flip(bytes, bytes.find("loss_sum") + 12));
    if (damage == 3) fs::remove(last);
    int64_t first = 0;
    r.on_step = [&](int64_t, int64_t step) {
      if (first == 0) first = step;
    };
    train(r);
    EXPECT_EQ(first, 4) << damage;
    EXPECT_EQ(promised("run"), expected) << damage;
  }
}

TEST_F(Train, WithoutASoundCheckpointNothingIsTouched) {
  TrainRequest r = request("run", true);
  r.on_step = [](int64_t, int64_t step) {
    if (step == 7) throw Killed();
  };
  EXPECT_THROW(train(r), Killed);
  r.on_step = nullptr;
  const std::string last = out("run") + "/checkpoints/last.ckpt", previous = out("run") + "/checkpoints/previous.ckpt";
  const std::string metrics = read_file(out("run") + "/metrics.jsonl");
  write_file_atomic(last, "half");
  io::write_tensors(previous, {});
  EXPECT_EQ(error_of<CheckpointError>(r), previous + ": not a checkpoint of qat");
  EXPECT_EQ(read_file(last), "half");
  EXPECT_EQ(read_file(out("run") + "/metrics.jsonl"), metrics);
  io::write_tensors(last, {{}, {{"qat.checkpoint", "1"}}});
  fs::remove(previous);
  EXPECT_EQ(error_of<CheckpointError>(r), last + ": checkpoint format 1, this program reads 3");
}

TEST_F(Train, AnAllowedChangeOfTheConfigIsTakenUp) {
  TrainRequest r = request("run", true);
  r.on_step = [](int64_t, int64_t step) {
    if (step == 7) throw Killed();
  };
  EXPECT_THROW(train(r), Killed);
  r.on_step = nullptr;
  r.overrides = {"stages[0].float.optimizer.lr=0.01", "stages[2].finetune.epochs=1"};
  r.allow = {"stages[0].float.optimizer"};
  const std::string message = error_of<ConfigError>(r);
  EXPECT_NE(message.find("stages[2].finetune.epochs: 2 in the run, 1 now"), std::string::npos) << message;
  EXPECT_EQ(message.find("stages[0]"), std::string::npos) << message;
  r.allow = {"stages"};
  train(r);
  const Experiment now = load_experiment(out("run") + "/config.yaml");
  EXPECT_EQ(now.parsed_stages().at(0).train.optimizer.at("lr").as<double>(), 0.01);
  // From then on it is the run's config.
  r.allow.clear();
  EXPECT_EQ(train(r).mismatches, 0);
}

TEST_F(Train, CheckpointsFollowTheClockToo) {
  TrainRequest r = request("run");
  r.overrides = {"checkpoint={every: 1000, minutes: 1e-9}"};
  std::vector<int64_t> found;
  r.on_step = [&](int64_t stage, int64_t step) {
    if (stage == 0 && step > 1) found.push_back(read_checkpoint(out("run") + "/checkpoints/last.ckpt").state.step);
    if (step == 4) throw Killed();
  };
  EXPECT_THROW(train(r), Killed);
  EXPECT_EQ(found, (std::vector<int64_t>{1, 2, 3}));
}

TEST_F(Train, ASecondProcessIsRefused) {
  TrainRequest r = request("run");
  r.overrides = {"stages=[{float: {steps: 1}}]"};
  std::string message;
  r.on_step = [&](int64_t, int64_t) {
    try {
      const RunLock lock(out("run"));
    } catch (const UsageError& error) {
      message = error.what();
    }
  };
  train(r);
  EXPECT_EQ(message, out("run") + ": another process is training this run");
  EXPECT_NO_THROW(RunLock(out("run")));
}

}  // namespace
}  // namespace qat::trainers
