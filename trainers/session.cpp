#include "trainers/session.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/base/random.h"
#include "core/base/text.h"
#include "core/graph/passes.h"
#include "core/graph/trace.h"
#include "core/io/weights.h"
#include "trainers/optimizer.h"
#include "trainers/run_folder.h"

namespace qat::trainers {
namespace {

/// The stream of random numbers for the initial weights; those of training are numbered by stage.
constexpr uint64_t kInitialWeights = 0xffff;

bool is_batch_counter(const std::string& name) { return name.ends_with(".num_batches_tracked"); }

}  // namespace

models::Model make_model(const config::Node& section) {
  const config::Node& name = section.at("name");
  return models::registry().get(name.text(), name)(model_options(section));
}

graph::Forward forward_of(const models::Model& model) {
  if (!model.forward_heads) {
    return [&model](const at::Tensor& x) { return graph::NamedTensors{{"logits", model.forward(x)}}; };
  }
  return [&model](const at::Tensor& x) {
    graph::NamedTensors outputs;
    for (models::HeadOutput& head : model.forward_heads(x)) outputs.emplace_back(head.name, head.logits);
    return outputs;
  };
}

Session::Session(const Experiment& e) : experiment(e) {
  at::set_num_threads(static_cast<int>(e.threads));
  data = datasets::make_datasets(e.data);
  transforms = datasets::make_transforms(e.data, data);
  at::manual_seed(hash(static_cast<uint64_t>(e.seed), kInitialWeights));
  model = make_model(e.model);
  // The layout of all kernels: codes and gradients of weights then need no rearrangement.
  for (at::Tensor& weight : model.module->parameters()) {
    const at::NoGradGuard no_grad;
    if (weight.dim() == 4) weight.set_data(weight.contiguous(at::MemoryFormat::ChannelsLast));
  }
  const datasets::Shape image = transforms.eval.output_shape(data.eval->shape());
  const datasets::Shape train_image = transforms.train.output_shape(data.train->shape());
  if (image != train_image) {
    throw e.data.dataset.error(fmt::format("training images are {}x{}, evaluation images {}x{} after their transforms",
                                           train_image[0], train_image[1], image[0], image[1]));
  }
  graph = graph::trace(*model.module, forward_of(model), image_sizes());
  const std::vector<int64_t>& output = graph.nodes[static_cast<size_t>(graph.output)].sizes;
  if (output.size() != 1 || output[0] < data.eval->num_classes()) {
    throw e.model.error(fmt::format("the network's output is [{}] for each image, the dataset has {} classes",
                                    fmt::join(output, ", "), data.eval->num_classes()));
  }
  if (!e.quantization) {
    graph::canonicalize(graph, {}, &pass_report);
    return;
  }
  graph::canonicalize(graph, graph::fuse_options(*e.quantization), &pass_report);
  for (const std::string& name : e.quantization->rewrites) graph::rewrite(graph, name, &pass_report);
  if (e.quantization->residual) graph::split_residual(graph, &pass_report);
  requantize(0, 0);
}

void Session::requantize(int64_t weight_bits, int64_t activation_bits) {
  quant::QuantizationConfig config = *experiment.quantization;
  if (weight_bits != 0) config.weight.bits = static_cast<int>(weight_bits);
  if (activation_bits != 0) config.activation.bits = static_cast<int>(activation_bits);
  net = std::make_shared<graph::GraphModule>(graph, *model.module);
  quantizers = graph::insert_quantizers(*net, config);
}

io::TensorMap Session::state() const { return net ? io::state_of(*net) : io::state_of(*model.module); }

std::vector<std::pair<std::string, at::Tensor>> Session::parameters() const {
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  const torch::nn::Module& module = net ? static_cast<const torch::nn::Module&>(*net) : *model.module;
  for (const auto& item : module.named_parameters()) {
    const bool seen = std::any_of(parameters.begin(), parameters.end(),
                                  [&](const auto& other) { return other.second.is_same(item.value()); });
    if (!seen && item.value().requires_grad()) parameters.emplace_back(item.key(), item.value());
  }
  return parameters;
}

int64_t Session::parameter_count() const {
  int64_t count = 0;
  for (const at::Tensor& parameter : model.module->parameters()) count += parameter.numel();
  return count;
}

uint64_t Session::parameter_bytes() const { return static_cast<uint64_t>(parameter_count()) * sizeof(float); }

std::vector<int64_t> Session::image_sizes() const {
  const datasets::Shape image = transforms.eval.output_shape(data.eval->shape());
  return {image[2], image[0], image[1]};
}

integer::Preprocessing Session::preprocessing() const {
  const int64_t channels = transforms.eval.output_shape(data.eval->shape())[2];
  integer::Preprocessing p{transforms.eval.mean(channels), transforms.eval.std(channels)};
  if (!experiment.data.eval.empty()) p.transforms = config::Node::sequence(experiment.data.eval).inline_yaml();
  p.classes = data.eval->class_names();
  return p;
}

void load_weights(const models::Model& model, const config::Node& section, const WeightsConfig& weights) {
  io::TensorMap from;
  std::string source = weights.path;
  if (std::filesystem::is_directory(source)) {
    const RunFolder run(source);
    run.require_run();
    source = run.last();
    from = read_checkpoint(source).tensors;
    // A quantizer's tensors stand beside the network's in a run's checkpoint.
    std::erase_if(from, [](const auto& item) { return is_quantizer_state(item.first); });
  } else {
    from = io::read_weights(source);
  }
  io::TensorMap into = io::state_of(*model.module);
  if (weights.skip_classifier) {
    for (const std::string& name : models::classifier_tensors(section.at("name").text(), model_options(section))) {
      into.erase(name);
      from.erase(name);
    }
  }
  std::erase_if(into, [&](const auto& item) { return is_batch_counter(item.first) && !from.contains(item.first); });
  io::copy_state(into, from, source);
}

TensorBatch to_tensors(const datasets::Batch& batch, const datasets::Shape& shape) {
  // LibTorch's own memory is aligned alike for every batch: kernels may choose their order of sums by it.
  const at::Tensor images = at::empty({batch.size, shape[0], shape[1], shape[2]}, at::kFloat);
  const at::Tensor labels = at::empty({batch.size}, at::kLong);
  std::memcpy(images.data_ptr(), batch.images.data(), images.nbytes());
  std::memcpy(labels.data_ptr(), batch.labels.data(), labels.nbytes());
  return {images.permute({0, 3, 1, 2}), labels};
}

std::unique_ptr<datasets::Loader> eval_loader(const Session& session, std::optional<int64_t> samples) {
  std::shared_ptr<const datasets::Dataset> dataset = session.data.eval;
  if (samples) dataset = datasets::first_samples(dataset, *samples);
  return std::make_unique<datasets::Loader>(dataset, session.transforms.eval,
                                            datasets::eval_options(session.experiment.data));
}

}  // namespace qat::trainers
