#include "core/device/training_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/device/builder.h"
#include "core/device/graph.h"
#include "core/device/memory.h"
#include "core/ops/cuda/optimizer.h"

namespace qat::device {
namespace {

/// Batches that the CPU may be ahead of the GPU.
constexpr int kStaged = 2;

/// A batch on its way: from memory of the host, which the GPU reads by itself, to memory beside the one that a step
/// reads, while the step before still runs.
class Staging {
 public:
  Staging(size_t bytes, Arena& arena) : bytes_(bytes), device_(arena.make<std::byte>(static_cast<int64_t>(bytes))) {
    void* data = nullptr;
    check(cudaMallocHost(&data, bytes), "page-locked memory");
    host_.reset(static_cast<std::byte*>(data));
  }

  std::byte* wait() {
    uploaded_.wait();
    return host_.get();
  }
  void copy(std::byte* to, cudaStream_t uploads, cudaStream_t stream) {
    taken_.hold(uploads);
    check(cudaMemcpyAsync(device_, host_.get(), bytes_, cudaMemcpyHostToDevice, uploads), "copying a batch to it");
    uploaded_.record(uploads);
    uploaded_.hold(stream);
    check(cudaMemcpyAsync(to, device_, bytes_, cudaMemcpyDeviceToDevice, stream), "copying a batch to it");
    taken_.record(stream);
  }

 private:
  size_t bytes_;
  std::byte* device_;
  std::unique_ptr<std::byte, Release<cudaFreeHost>> host_;
  Event uploaded_, taken_;
};

/// Copies a batch's images with several threads: one alone can be slower than the GPU.
void copy_images(std::byte* to, const float* images, size_t bytes) {
  constexpr size_t kFewest = size_t{1} << 22, kMostThreads = 4;
  const size_t available = std::min<size_t>(kMostThreads, std::max(1U, std::thread::hardware_concurrency()));
  const size_t threads = std::clamp<size_t>(bytes / kFewest, 1, available), part = bytes / threads;
  const auto* from = reinterpret_cast<const std::byte*>(images);
  std::vector<std::jthread> helpers;
  for (size_t i = 1; i < threads; ++i) {
    const size_t begin = i * part, count = i + 1 == threads ? bytes - begin : part;
    const auto copy = [=] { std::memcpy(to + begin, from + begin, count); };
    try {
      helpers.emplace_back(copy);
    } catch (const std::system_error&) {  // no more threads
      copy();
    }
  }
  std::memcpy(to, from, threads == 1 ? bytes : part);
}

/// Where the parts of a batch lie behind each other.
struct BatchLayout {
  BatchLayout(int64_t batch, int64_t image, size_t layers) {
    const auto take = [&](size_t size) { return std::exchange(bytes, bytes + (size + 15) / 16 * 16); };
    numbers = take(sizeof(StepNumbers));
    keys = take(layers * sizeof(uint64_t));
    labels = take(static_cast<size_t>(batch) * sizeof(int64_t));
    others = take(static_cast<size_t>(batch) * sizeof(int64_t));
    images = take(static_cast<size_t>(batch * image) * sizeof(float));
  }
  size_t bytes = 0, numbers = 0, keys = 0, labels = 0, others = 0, images = 0;
};

/// What one batch size needs.
struct SizedStep {
  SizedStep(int64_t batch, int64_t image, size_t layers) : layout(batch, image, layers) {}
  BatchLayout layout;
  std::byte* input = nullptr;  // on the device
  Program program;
  std::vector<std::unique_ptr<Staging>> staging;
  size_t next = 0;
  bool has_run = false;
  std::unique_ptr<Graph> graph;  // from the second run on
};

class Step final : public TrainingStep {
 public:
  Step(const Network& network, const std::vector<Parameter>& parameters, const Options& options)
      : network_(network), options_(options), state_(arena_), shared_{arena_, state_, {}} {
    for (const int64_t size : network.layers[0].sizes) image_ *= size;
    shared_.failed = arena_.make<int32_t>(1);
    shared_.totals = arena_.make<ops::cuda::LossTotals>(1);
    list_parameters(parameters);
  }
  void upload() override {
    wait();
    state_.upload();
  }

  void download() override {
    wait();
    state_.download();
  }

  void run(const Batch& batch, const Rates& rates) override {
    QAT_CHECK(batch.size > 0, "a batch for the GPU has no samples");
    SizedStep& step = sized(batch.size);
    stage(step, batch, rates);
    if (!step.has_run) {  // kernel by kernel: their errors have a place, and CUDA loads them
      step.program.run(lanes_);
      step.has_run = true;
      return;
    }
    if (!step.graph) step.graph = std::make_unique<Graph>(stream_, [&] { step.program.run(lanes_); });
    step.graph->launch(stream_);
  }

  Totals totals() override {
    wait();
    ops::cuda::LossTotals totals;
    int32_t failed = 0;
    check(cudaMemcpy(&totals, shared_.totals, sizeof(totals), cudaMemcpyDeviceToHost), "reading the loss");
    check(cudaMemcpy(&failed, shared_.failed, sizeof(failed), cudaMemcpyDeviceToHost), "reading the loss");
    return {totals.loss, totals.correct, totals.samples, totals.last_loss, failed != 0};
  }

  void set_totals(const Totals& totals) override {
    wait();
    const ops::cuda::LossTotals set{totals.loss, totals.correct, totals.samples, totals.last_loss};
    check(cudaMemcpy(shared_.totals, &set, sizeof(set), cudaMemcpyHostToDevice), "setting the loss");
    check(cudaDeviceSynchronize(), "setting the loss");
  }

  void read_gradient(const HostMemory& parameter, float* into) override {
    wait();
    const float* gradient = shared_.gradient_of(parameter);
    QAT_CHECK(gradient != nullptr, "a gradient was asked of memory that is no parameter");
    check(cudaMemcpy(into, gradient, static_cast<size_t>(parameter.bytes), cudaMemcpyDeviceToHost),
          "reading a gradient");
  }

  int64_t activation_bytes() const override {
    int64_t most = 0;
    for (const auto& [size, step] : steps_) most = std::max(most, step->program.size());
    return most;
  }
  int64_t saved_bytes() const override {
    int64_t most = 0;
    for (const auto& [size, step] : steps_) most = std::max(most, step->program.kept_size());
    return most;
  }
  int64_t state_bytes() const override { return arena_.size(); }

 private:
  void wait() { check(cudaStreamSynchronize(stream_), "training"); }

  void list_parameters(const std::vector<Parameter>& parameters) {
    std::vector<ops::cuda::ParameterUpdate> updates;
    std::vector<ops::cuda::UpdatePiece> pieces;
    for (const Parameter& p : parameters) {
      const int64_t n = p.value.bytes / static_cast<int64_t>(sizeof(float));
      float* gradient = arena_.make<float>(n);
      QAT_CHECK(shared_.gradients.emplace(p.value.data, gradient).second, "a parameter is in the list twice");
      updates.push_back({state_.at<float>(p.value), gradient, state_.at<float>(p.first), state_.at<float>(p.second), n,
                         p.is_quantizers ? 1 : 0, static_cast<float>(p.weight_decay), static_cast<float>(p.lowest),
                         static_cast<float>(p.highest)});
      for (int64_t begin = 0; begin < n; begin += ops::cuda::kUpdatePiece) {
        pieces.push_back({static_cast<int32_t>(updates.size()) - 1, begin});
      }
    }
    list_ = {arena_.make(updates), arena_.make(pieces), std::ssize(updates), std::ssize(pieces)};
    norm_ = arena_.make<double>(1);
    norm_scratch_ = arena_.make<double>(std::max<int64_t>(1, list_.piece_count));
  }

  SizedStep& sized(int64_t batch) {
    if (const auto found = steps_.find(batch); found != steps_.end()) return *found->second;
    auto made = std::make_unique<SizedStep>(batch, image_, network_.layers.size());
    const BatchLayout& layout = made->layout;
    made->input = arena_.make<std::byte>(static_cast<int64_t>(layout.bytes));
    for (int i = 0; i < kStaged; ++i) made->staging.push_back(std::make_unique<Staging>(layout.bytes, arena_));
    shared_.numbers = reinterpret_cast<StepNumbers*>(made->input + layout.numbers);
    shared_.keys = reinterpret_cast<uint64_t*>(made->input + layout.keys);
    Builder(shared_, network_, options_, batch, made->program)
        .build({reinterpret_cast<const float*>(made->input + layout.images),
                reinterpret_cast<const int64_t*>(made->input + layout.labels),
                reinterpret_cast<const int64_t*>(made->input + layout.others)});
    add_update(made->program);
    made->program.plan();
    state_.upload_new();
    return *steps_.emplace(batch, std::move(made)).first->second;
  }

  void add_update(Program& program) {
    using namespace ops::cuda;  // NOLINT: the kernels
    program.join();
    program.add(
        "optimizer", {}, [=, this, numbers = shared_.numbers, failed = shared_.failed](const Program::Run& run) {
          const auto clip = static_cast<float>(options_.clip_value);
          measure_gradients(list_, clip, norm_, failed, norm_scratch_, run.stream);
          const GradientClipping clipping{clip, options_.clip_norm, norm_};
          if (options_.optimizer == Options::Optimizer::kSgd) {
            sgd(list_, {static_cast<float>(options_.momentum), options_.nesterov}, clipping, numbers->rates, failed,
                run.stream);
            return;
          }
          adam(list_, {options_.beta1, options_.beta2, options_.eps, options_.optimizer == Options::Optimizer::kAdamw},
               clipping, numbers->rates, numbers->corrections[0], failed, run.stream);
        });
  }

  void stage(SizedStep& step, const Batch& batch, const Rates& rates) {
    const BatchLayout& layout = step.layout;
    Staging& staging = *step.staging[step.next];
    step.next = (step.next + 1) % step.staging.size();
    std::byte* to = staging.wait();
    StepNumbers numbers;
    numbers.rates[0] = rates.learning_rate, numbers.rates[1] = rates.quantizer_learning_rate;
    numbers.share = batch.others == nullptr ? 1.0f : batch.share;
    const int64_t updates[] = {rates.update, rates.quantizer_update};
    for (size_t i = 0; i < 2; ++i) {
      const auto update = static_cast<double>(updates[i]);
      numbers.corrections[i][0] = 1 - std::pow(options_.beta1, update);
      numbers.corrections[i][1] = std::sqrt(1 - std::pow(options_.beta2, update));
    }
    std::memcpy(to + layout.numbers, &numbers, sizeof(numbers));
    for (size_t i = 0; i < network_.layers.size(); ++i) {
      const uint64_t key = hash(rates.key, i);
      std::memcpy(to + layout.keys + i * sizeof(key), &key, sizeof(key));
    }
    const auto labels = static_cast<size_t>(batch.size) * sizeof(int64_t);
    std::memcpy(to + layout.labels, batch.labels, labels);
    std::memcpy(to + layout.others, batch.others == nullptr ? batch.labels : batch.others, labels);
    copy_images(to + layout.images, batch.images, static_cast<size_t>(batch.size * image_) * sizeof(float));
    staging.copy(step.input, uploads_, stream_);
  }

  const Network network_;
  const Options options_;
  int64_t image_ = 1;
  Arena arena_;
  State state_;
  Shared shared_;
  ops::cuda::UpdateList list_;
  double *norm_ = nullptr, *norm_scratch_ = nullptr;
  std::map<int64_t, std::unique_ptr<SizedStep>> steps_;
  Stream uploads_, stream_, aside_;  // at an end before what they use
  const Lanes lanes_{stream_, aside_};
};

}  // namespace

std::unique_ptr<TrainingStep> make_training_step(const Network& network, const std::vector<Parameter>& parameters,
                                                 const Options& options) {
  QAT_CHECK(!network.layers.empty() && network.layers[0].kind == LayerKind::kInput,
            "a network for the GPU begins with its input");
  QAT_CHECK(network.output >= 0 && network.output < std::ssize(network.layers), "a network for the GPU has an output");
  return std::make_unique<Step>(network, parameters, options);
}

}  // namespace qat::device

qat::device::MakeTrainingStep qat_cuda_training_step() { return &qat::device::make_training_step; }
