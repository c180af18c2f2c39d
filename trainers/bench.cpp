#include "trainers/bench.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <c10/core/Allocator.h>
#include <c10/core/GradMode.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <dlfcn.h>
#include <malloc.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/pass_timer.h"
#include "core/ops/targets.h"
#include "trainers/device_training.h"
#include "trainers/gpu_library.h"
#include "trainers/optimizer.h"
#include "trainers/session.h"

namespace qat::trainers {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kWarmUp = 3;

class Stopwatch {
 public:
  double milliseconds() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double, std::milli>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

double minimum(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Bytes that LibTorch's allocator of a device gave out, less those that it got back of them.
struct LiveBytes final : c10::MemoryReportingInfoBase {
  explicit LiveBytes(c10::DeviceType type) : type(type) {}
  const c10::DeviceType type;
  std::atomic<int64_t> bytes{0};
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
    if (device.type() == type) bytes += size;
  }
  bool memoryProfilingEnabled() const override { return true; }
};

TrainStage finetune_of(const std::vector<Stage>& stages, const std::string& config) {
  for (const Stage& stage : stages) {
    if (stage.kind == StageKind::kFinetune) return stage.train;
  }
  throw ConfigError(config + ": bench step needs a finetune stage");
}

/// One network with its optimizer.
struct Side {
  std::function<at::Tensor(const at::Tensor&)> forward;
  std::function<void()> zero_grad, update;
  bool channels_last = true;
  std::vector<double> total, forward_ms, backward_ms, update_ms;
  std::map<std::string, std::vector<double>> passes;

  at::Tensor loss(const at::Tensor& images, const at::Tensor& labels) const {
    return at::cross_entropy_loss(forward(images), labels);
  }
  at::Tensor input(const at::Tensor& images) const {
    return channels_last ? images : images.contiguous(at::MemoryFormat::Contiguous);
  }

  void step(const TensorBatch& batch, bool timed) {
    const at::Tensor images = input(batch.images);
    time_passes(timed);
    Stopwatch whole, part;
    zero_grad();
    const double zeroing = part.milliseconds();
    const at::Tensor value = loss(images, batch.labels);
    const double forward_time = part.milliseconds();
    value.backward();
    const double backward_time = part.milliseconds();
    update();
    const double update_time = part.milliseconds() + zeroing;
    if (!timed) return;
    total.push_back(whole.milliseconds());
    forward_ms.push_back(forward_time);
    backward_ms.push_back(backward_time);
    update_ms.push_back(update_time);
    for (const auto& [name, spent] : take_pass_times()) passes[name].push_back(spent);
    time_passes(false);
  }

  int64_t saved_bytes(const TensorBatch& batch) const {
    zero_grad();
    const at::Tensor images = input(batch.images);
    const auto live = std::make_shared<LiveBytes>(images.device().type());
    at::Tensor value;
    {
      const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, live);
      value = loss(images.clone(), batch.labels);
    }
    return live->bytes;
  }
};

/// The float network and its optimizer as a user of LibTorch has them.
Side float_side(const std::shared_ptr<Session>& session, const TrainStage& stage, bool channels_last,
                at::DeviceType device = at::kCPU) {
  torch::nn::Module& module = *session->model.module;
  module.to(device);
  module.train();
  {
    const at::NoGradGuard no_grad;
    const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    for (at::Tensor& p : module.parameters()) {
      if (p.dim() == 4) p.set_data(p.contiguous(format));
    }
  }
  Side side;
  side.channels_last = channels_last;
  side.forward = [session](const at::Tensor& x) { return session->model.forward(x); };
  const config::Node options =
      optimizers().get(stage.optimizer.at("name").text()).resolve(stage.optimizer.without("name"));
  if (stage.optimizer.at("name").text() == "sgd") {
    std::vector<at::Tensor> weights, vectors;
    for (const at::Tensor& p : module.parameters()) (p.dim() < 2 ? vectors : weights).push_back(p);
    const auto group = [&](std::vector<at::Tensor> parameters, const char* decay) {
      auto sgd = std::make_unique<torch::optim::SGDOptions>(options.at("lr").as<double>());
      sgd->momentum(options.at("momentum").as<double>()).nesterov(options.at("nesterov").as<bool>());
      sgd->weight_decay(options.at(decay).as<double>());
      return torch::optim::OptimizerParamGroup(std::move(parameters), std::move(sgd));
    };
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.push_back(group(std::move(weights), "weight_decay"));
    groups.push_back(group(std::move(vectors), "vector_weight_decay"));
    const auto optimizer = std::make_shared<torch::optim::SGD>(std::move(groups), torch::optim::SGDOptions(0.1));
    side.zero_grad = [optimizer] { optimizer->zero_grad(); };
    side.update = [optimizer] { optimizer->step(); };
    return side;
  }
  std::vector<NamedParameter> parameters;
  for (const auto& item : module.named_parameters()) parameters.push_back({item.key(), item.value()});
  const std::shared_ptr<Optimizer> optimizer =
      optimizers().get(stage.optimizer.at("name").text()).make(stage.optimizer.without("name"), std::move(parameters));
  side.zero_grad = [optimizer] { optimizer->zero_grad(); };
  side.update = [optimizer] { optimizer->step(1.0); };
  return side;
}

/// Calibrates the network on the first batches and puts it into its phase; returns the stage's optimizer of it.
std::shared_ptr<Optimizer> prepare(const Session& session, const TrainStage& stage, bool frozen,
                                   const std::function<TensorBatch()>& next) {
  graph::GraphModule& net = *session.net;
  net.eval();
  net.set_phase(nn::Phase::kCalibrate);
  {
    const at::NoGradGuard no_grad;
    for (int64_t i = 0; i < session.experiment.quantization->calibration.batches; ++i) net.forward(next().images);
    net.initialize_quantizers();
  }
  net.set_phase(frozen ? nn::Phase::kFrozen : nn::Phase::kLive);
  net.train();
  std::vector<NamedParameter> parameters;
  for (auto& [name, tensor] : session.parameters()) parameters.push_back({name, tensor});
  return optimizers()
      .get(stage.optimizer.at("name").text())
      .make(stage.optimizer.without("name"), std::move(parameters));
}

/// The network as its finetune stage trains it.
Side quantized_side(const std::shared_ptr<Session>& session, const TrainStage& stage, bool frozen,
                    const std::function<TensorBatch()>& next) {
  const std::shared_ptr<Optimizer> optimizer = prepare(*session, stage, frozen, next);
  Side side;
  side.forward = [session](const at::Tensor& x) { return session->net->forward(x); };
  side.zero_grad = [optimizer] { optimizer->zero_grad(); };
  side.update = [optimizer, session] {
    optimizer->step(1.0);
    session->net->project();
  };
  return side;
}

/// Networks, batches and the loader behind them.
struct Bench {
  Bench(const StepBenchRequest& request, Experiment parsed) : experiment(std::move(parsed)) {
    ops::limit_vector_target(request.isa);
    if (request.threads > 0) experiment.threads = request.threads;
    QAT_CHECK_AS(ConfigError, experiment.quantization.has_value(), "bench step: {} has no quantization section",
                 request.config);
    stage = finetune_of(experiment.parsed_stages(), request.config);
    first = std::make_shared<Session>(experiment);
    loader = std::make_unique<datasets::Loader>(first->data.train, first->transforms.train,
                                                datasets::train_options(experiment.data, first->data, 0));
    QAT_CHECK_AS(ConfigError, loader->batches() > 0, "bench step: {} has too few samples for a batch", request.config);
  }

  TensorBatch next() {
    Stopwatch watch;
    while (!loader->next(batch)) loader->start_epoch(epoch++);
    TensorBatch result = to_tensors(batch, loader->shape());
    data_ms.push_back(watch.milliseconds());
    return result;
  }

  Experiment experiment;
  TrainStage stage;
  std::shared_ptr<Session> first;
  std::unique_ptr<datasets::Loader> loader;
  datasets::Batch batch;
  uint64_t epoch = 0;
  std::vector<double> data_ms;
};

int64_t status_kilobytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) return std::stoll(line.substr(key.size() + 1));
  }
  throw FileError("/proc/self/status has no " + key);
}

Json parts_of(const Side& side) {
  return {{"forward_ms", minimum(side.forward_ms)},
          {"backward_ms", minimum(side.backward_ms)},
          {"optimizer_ms", minimum(side.update_ms)}};
}

/// Loads LibTorch's own CUDA libraries, which are optional: the reason says why there is no GPU for LibTorch.
void load_libtorch_cuda(std::string& reason) {
  const bool loaded = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr;
  if (!loaded) {
    reason = dlerror();
  } else if (!at::globalContext().hasCUDA()) {
    reason = "LibTorch finds no GPU";
  }
}

/// The float network on the GPU, and a batch that is copied to it from page-locked memory at every step.
class FloatOnDevice {
 public:
  FloatOnDevice(const Bench& bench, const TensorBatch& batch, bool channels_last)
      : side_(float_side(std::make_shared<Session>(bench.experiment), bench.stage, channels_last, at::kCUDA)),
        batch_{side_.input(batch.images).pin_memory(), batch.labels.pin_memory()},
        autocast_(bench.stage.autocast.has_value()) {}

  void step() {
    side_.zero_grad();
    at::Tensor loss;
    {
      const Autocast autocast(autocast_);
      loss = side_.loss(batch_.images.to(at::kCUDA, true), batch_.labels.to(at::kCUDA, true));
    }
    loss.backward();
    side_.update();
  }

  /// {saved_bytes, peak_bytes: how far a step's memory grows above what parameters and optimizer take}.
  Json memory() {
    const auto used = [] { return at::accelerator::getDeviceStats(0).allocated_bytes[0]; };
    side_.zero_grad();
    int64_t saved = 0;
    {
      const Autocast autocast(autocast_);
      saved = side_.saved_bytes({batch_.images.to(at::kCUDA), batch_.labels.to(at::kCUDA)});
    }
    const int64_t before = used().current;
    at::accelerator::resetPeakStats(0);
    step();
    return {{"saved_bytes", saved}, {"peak_bytes", used().peak - before}};
  }

 private:
  /// bfloat16 while it lives.
  struct Autocast {
    explicit Autocast(bool on) {
      at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
      at::autocast::set_autocast_enabled(at::kCUDA, on);
    }
    ~Autocast() {
      at::autocast::clear_cache();
      at::autocast::set_autocast_enabled(at::kCUDA, false);
    }
    Autocast(const Autocast&) = delete;
    Autocast& operator=(const Autocast&) = delete;
  };
  Side side_;
  TensorBatch batch_;
  bool autocast_;
};

/// Steps on the GPU, one batch again and again: runs of quantized and float ones in turn.
Json gpu_step_bench(Bench& bench, const StepBenchRequest& request, const std::string& no_float) {
  std::string reason;
  QAT_CHECK_AS(ConfigError, count_gpus(&reason) > 0, "device: cuda cannot be used: {}", reason);
  check_for_device(*bench.first, bench.stage);
  const auto next = [&] { return bench.next(); };
  const Session session(bench.experiment);
  const std::shared_ptr<Optimizer> optimizer = prepare(session, bench.stage, request.frozen, next);
  DeviceTraining quantized(session, *optimizer, bench.stage);
  bench.data_ms.clear();
  const TensorBatch batch = bench.next();
  std::vector<std::unique_ptr<FloatOnDevice>> floats;  // contiguous, channels last
  if (no_float.empty()) {
    for (const bool last : {false, true}) floats.push_back(std::make_unique<FloatOnDevice>(bench, batch, last));
  }

  const auto milliseconds = [&](int64_t steps, const auto& step, const auto& wait) {
    wait();
    Stopwatch watch;
    for (int64_t i = 0; i < steps; ++i) step();
    wait();
    return watch.milliseconds() / static_cast<double>(steps);
  };
  constexpr int kRuns = 7;
  std::vector<double> quantized_ms, float_ms[2];
  for (int run = -1; run < kRuns; ++run) {
    const int64_t steps = run < 0 ? kWarmUp : request.steps;
    uint64_t key = 0;
    // Rates of 0: an untrained network may diverge in hundreds of steps.
    const double ms = milliseconds(
        steps, [&] { quantized.step(bench.batch, {}, 0.0, key++); },
        [&] { QAT_CHECK(!quantized.totals().failed, "bench step: training diverged on the GPU"); });
    if (run >= 0) quantized_ms.push_back(ms);
    for (size_t i = 0; i < floats.size(); ++i) {
      const double float_run = milliseconds(
          steps, [&] { floats[i]->step(); }, [] { at::accelerator::synchronizeDevice(0); });
      if (run >= 0) float_ms[i].push_back(float_run);
    }
  }

  const device::TrainingStep& device = quantized.device();
  Json result = {{"device", "cuda"},
                 {"quantized_ms", minimum(quantized_ms)},
                 {"quantized_median_ms", median(quantized_ms)},
                 {"quantized_saved_bytes", device.saved_bytes()},
                 {"activation_bytes", device.activation_bytes()},
                 {"state_bytes", device.state_bytes()},
                 {"parameter_bytes", bench.first->parameter_bytes()},
                 {"model", bench.experiment.model_name()},
                 {"batch_size", batch.images.size(0)},
                 {"memory", bench.experiment.quantization->memory},
                 {"autocast", bench.stage.autocast.has_value()},
                 {"phase", request.frozen ? "frozen" : "live"},
                 {"steps", request.steps},
                 {"data_ms", median(bench.data_ms)}};
  if (floats.empty()) {
    result["no_float"] = no_float;
    return result;
  }
  const size_t fastest = minimum(float_ms[0]) < minimum(float_ms[1]) ? 0 : 1;
  Json parts = floats[fastest]->memory();
  parts["layout"] = fastest == 0 ? "contiguous" : "channels_last";
  parts["contiguous_ms"] = minimum(float_ms[0]);
  parts["channels_last_ms"] = minimum(float_ms[1]);
  result["float_ms"] = minimum(float_ms[fastest]);
  result["float_median_ms"] = median(float_ms[fastest]);
  result["ratio"] = minimum(quantized_ms) / minimum(float_ms[fastest]);
  result["median_ratio"] = median(quantized_ms) / median(float_ms[fastest]);
  result["float_saved_bytes"] = parts["saved_bytes"];
  result["saved_ratio"] = static_cast<double>(device.saved_bytes()) / parts["saved_bytes"].get<double>();
  result["float"] = std::move(parts);
  return result;
}

}  // namespace

Json step_bench(const StepBenchRequest& request) {
  const Experiment experiment = load_experiment(request.config, request.overrides);
  std::string no_float;
  if (experiment.device == "cuda") load_libtorch_cuda(no_float);  // before LibTorch looks for a GPU
  Bench bench(request, experiment);
  if (experiment.device == "cuda") return gpu_step_bench(bench, request, no_float);
  const auto next = [&] { return bench.next(); };
  // Three networks with the same initial weights.
  Side contiguous = float_side(bench.first, bench.stage, false);
  Side channels_last = float_side(std::make_shared<Session>(bench.experiment), bench.stage, true);
  const auto quantized_session = std::make_shared<Session>(bench.experiment);
  Side quantized = quantized_side(quantized_session, bench.stage, request.frozen, next);
  bench.data_ms.clear();
  for (int64_t i = -kWarmUp; i < request.steps; ++i) {
    const TensorBatch batch = bench.next();
    for (Side* side : {&contiguous, &channels_last, &quantized}) side->step(batch, i >= 0);
  }
  Side& fastest = minimum(contiguous.total) < minimum(channels_last.total) ? contiguous : channels_last;
  const TensorBatch batch = bench.next();
  const int64_t float_saved = fastest.saved_bytes(batch), quantized_saved = quantized.saved_bytes(batch);
  const double float_ms = minimum(fastest.total), quantized_ms = minimum(quantized.total);
  const double data = median(bench.data_ms), quantized_median = median(quantized.total);

  Json float_parts = {{"layout", fastest.channels_last ? "channels_last" : "contiguous"}};
  float_parts.update(parts_of(fastest));
  float_parts["contiguous_ms"] = minimum(contiguous.total);
  float_parts["channels_last_ms"] = minimum(channels_last.total);
  Json quantized_parts = parts_of(quantized);
  Json& passes = quantized_parts["passes"] = Json::object();
  for (const auto& [name, spent] : quantized.passes) passes[name] = minimum(spent);
  Json result = {{"float_ms", float_ms},
                 {"quantized_ms", quantized_ms},
                 {"ratio", quantized_ms / float_ms},
                 {"float_median_ms", median(fastest.total)},
                 {"quantized_median_ms", quantized_median},
                 {"median_ratio", quantized_median / median(fastest.total)},
                 {"float_saved_bytes", float_saved},
                 {"quantized_saved_bytes", quantized_saved},
                 {"saved_ratio", static_cast<double>(quantized_saved) / static_cast<double>(float_saved)},
                 {"parameter_bytes", bench.first->parameter_bytes()},
                 {"model", bench.experiment.model_name()},
                 {"batch_size", batch.images.size(0)},
                 {"memory", bench.experiment.quantization->memory},
                 {"phase", request.frozen ? "frozen" : "live"},
                 {"steps", request.steps},
                 {"threads", at::get_num_threads()},
                 {"vector_target", ops::vector_target()},
                 {"libtorch_capability", at::get_cpu_capability()},
                 {"float", std::move(float_parts)},
                 {"quantized", std::move(quantized_parts)},
                 {"data_ms", data},
                 {"data_share", data / (data + quantized_median)}};
  return result;
}

Json step_memory(const StepBenchRequest& request, const std::string& side) {
  QAT_CHECK_AS(UsageError, side == "float" || side == "quantized", "unknown side \"{}\"; expected float or quantized",
               side);
  Bench bench(request, load_experiment(request.config, request.overrides));
  Side measured = side == "float"
                      ? float_side(bench.first, bench.stage, true)
                      : quantized_side(bench.first, bench.stage, request.frozen, [&] { return bench.next(); });
  const TensorBatch batch = bench.next();
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts again
  const int64_t before = status_kilobytes("VmRSS");
  for (int64_t i = 0; i < kWarmUp; ++i) measured.step(batch, false);
  return {{"peak_rss_growth_bytes", (status_kilobytes("VmHWM") - before) * 1024}};
}

}  // namespace qat::trainers
