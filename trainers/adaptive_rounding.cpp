#include "trainers/adaptive_rounding.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/ops/rounding.h"
#include "core/quant/schedule.h"

namespace qat::trainers {
namespace {

using at::Tensor;

/// This close to a level, in steps, a weight is on it but for the rounding of its division.
constexpr double kOnLevel = 1e-4;

/// adaptive_up() of a tensor, differentiable.
Tensor up_of(const Tensor& v) {
  return (v.sigmoid() * (ops::kAdaptiveZeta - ops::kAdaptiveGamma) + ops::kAdaptiveGamma).clamp(0, 1);
}

Tensor per_row(const Tensor& v, const Tensor& like) {
  std::vector<int64_t> sizes(static_cast<size_t>(like.dim()), 1);
  sizes[0] = v.numel();
  return v.view(sizes);
}

/// Adam with torch.optim's defaults (Kingma and Ba 2015).
class Adam {
 public:
  explicit Adam(const Tensor& v) : m_(at::zeros_like(v)), s_(at::zeros_like(v)) {}
  void step(Tensor& v, double lr) {
    const at::NoGradGuard no_grad;
    const Tensor g = v.grad();
    ++t_;
    m_.mul_(kB1).add_(g, 1 - kB1);
    s_.mul_(kB2).addcmul_(g, g, 1 - kB2);
    const double c1 = 1 - std::pow(kB1, t_), c2 = 1 - std::pow(kB2, t_);
    v.sub_((m_ / c1) / ((s_ / c2).sqrt() + 1e-8) * lr);
    v.mutable_grad() = Tensor();
  }

 private:
  static constexpr double kB1 = 0.9, kB2 = 0.999;
  Tensor m_, s_;
  int t_ = 0;
};

bool can_be_rounded(const nn::WeightedLayer& layer) {
  const auto& q = layer.weight_quantizer();
  return q && layer.values_reason().empty() && !layer.excluded() && q->traits().affine && q->traits().integer_levels &&
         q->traits().idempotent;
}

double squared_error(const nn::WeightedLayer& layer, const Tensor& weight, const Tensor& inputs,
                     const Tensor& targets) {
  const at::NoGradGuard no_grad;
  return (layer.evaluate(inputs, weight) - targets).square().mean().item<double>();
}

/// What the layer at `step` gets from the network as it is, and what it gives.
struct Seen {
  Tensor input, output;
};

Seen run(graph::GraphModule& net, size_t step, nn::Phase phase, const Tensor& images, int64_t batch_size) {
  net.eval();
  const nn::Phase before = net.phase();
  net.set_phase(phase);
  const nn::QLayer* source = net.steps()[static_cast<size_t>(net.steps()[step].inputs[0])].layer.get();
  const nn::QLayer* layer = net.steps()[step].layer.get();
  std::vector<Tensor> inputs, outputs;
  for (int64_t i = 0; i < images.size(0); i += batch_size) {
    net.forward(images.slice(0, i, std::min(i + batch_size, images.size(0))),
                [&](const nn::QLayer& at, const nn::Value& value) {
                  if (&at == source) inputs.push_back(nn::to_float(value));
                  if (&at == layer) outputs.push_back(nn::to_float(value));
                });
  }
  net.set_phase(before);
  return {at::cat(inputs), at::cat(outputs)};
}

}  // namespace

Tensor adaptive_rounding(const nn::WeightedLayer& layer, const Tensor& inputs, const Tensor& targets,
                         const AdaptiveRoundingStage& options, uint64_t key) {
  quant::Quantizer& q = *layer.weight_quantizer();
  Tensor below, scale, v, free;
  {
    const at::NoGradGuard no_grad;
    const Tensor w = layer.weight_to_quantize();
    q.refresh(w);
    const Tensor scales = q.qparams().scale.detach();
    scale = per_row(scales.repeat_interleave(w.size(0) / scales.numel()), w);
    // What lies on a level stays there: among it are the values that a scale by the largest magnitude follows from.
    const Tensor exact = w / scale, nearest = exact.round();
    free = (exact - nearest).abs().gt(kOnLevel);
    const Tensor t = at::where(free, exact, nearest);
    below = t.floor();
    // Where up is the fraction itself; outside the range any v gives the outermost level.
    const Tensor share = (t - below - ops::kAdaptiveGamma) / (ops::kAdaptiveZeta - ops::kAdaptiveGamma);
    v = (share / (1 - share)).log();
  }
  const auto rounded = [&](const Tensor& up) {
    return (below + up * free).clamp(q.spec().lo(), q.spec().hi()) * scale;
  };
  v.set_requires_grad(true);
  Adam adam(v);
  CounterRng rng(key);
  const int64_t samples = inputs.size(0), batch = std::min(options.batch_size, samples);
  const auto warmup = static_cast<int64_t>(options.warmup * static_cast<double>(options.iterations));
  const quant::Ramp beta{options.beta_start, options.beta_end};
  for (int64_t i = 0; i < options.iterations; ++i) {
    std::vector<int64_t> chosen(static_cast<size_t>(batch));
    for (int64_t& index : chosen) index = static_cast<int64_t>(rng.below(static_cast<uint64_t>(samples)));
    const Tensor index = at::tensor(chosen, at::kLong), up = up_of(v);
    const Tensor y = layer.evaluate(inputs.index_select(0, index), rounded(up));
    Tensor loss = (y - targets.index_select(0, index)).square().flatten(1).sum(1).mean();
    if (i >= warmup) {
      const double b = beta.at(i - warmup, options.iterations - warmup);
      loss = loss + (1 - (up * 2 - 1).abs().pow(b)).sum() * options.regularization;
    }
    loss.backward();
    adam.step(v, options.lr);
  }
  const at::NoGradGuard no_grad;
  return rounded(up_of(v).ge(0.5).to(at::kFloat));
}

void adaptive_rounding(graph::GraphModule& net, const Tensor& images, const AdaptiveRoundingStage& options,
                       uint64_t key, const std::function<void(const nn::WeightedLayer&, double, double)>& report) {
  bool found = false;
  // The float network's outputs need its weights as they were.
  std::vector<Tensor> targets(net.steps().size());
  for (size_t i = 0; i < net.steps().size(); ++i) {
    const auto* layer = dynamic_cast<const nn::WeightedLayer*>(net.steps()[i].layer.get());
    if (layer == nullptr || !can_be_rounded(*layer) || !net.is_needed(static_cast<int>(i))) continue;
    const at::NoGradGuard no_grad;
    targets[i] = run(net, i, nn::Phase::kFloat, images, options.batch_size).output;
  }
  for (size_t i = 0; i < net.steps().size(); ++i) {
    if (!targets[i].defined()) continue;
    found = true;
    auto& layer = dynamic_cast<nn::WeightedLayer&>(*net.steps()[i].layer);
    Tensor input, nearest;
    {
      const at::NoGradGuard no_grad;
      input = run(net, i, net.phase(), images, options.batch_size).input;
      nearest = layer.weight_quantizer()->forward(layer.weight_to_quantize());
    }
    const Tensor adaptive = adaptive_rounding(layer, input, targets[i], options, hash(key, i));
    const double error = squared_error(layer, nearest, input, targets[i]);
    const double adaptive_error = squared_error(layer, adaptive, input, targets[i]);
    report(layer, error, adaptive_error);
    if (adaptive_error < error) layer.set_weight_to_quantize(adaptive);
    targets[i] = Tensor();
  }
  QAT_CHECK_AS(ConfigError, found, "adaptive_rounding: no weight has evenly spaced levels in the integer path");
}

}  // namespace qat::trainers

void qat::config::Schema<qat::trainers::AdaptiveRoundingStage>::describe(
    Fields<qat::trainers::AdaptiveRoundingStage>& f) {
  using S = qat::trainers::AdaptiveRoundingStage;
  f.field("iterations", &S::iterations).doc("of Adam, for each layer").minimum(1);
  f.field("batch_size", &S::batch_size).doc("images an iteration").minimum(1);
  f.field("samples", &S::samples).doc("training images").minimum(1);
  f.field("lr", &S::lr).doc("Adam's learning rate").above(0);
  f.field("regularization", &S::regularization).doc("weight of the term that pushes every choice to 0 or 1").minimum(0);
  f.field("beta_start", &S::beta_start).doc("exponent of that term at first").above(0);
  f.field("beta_end", &S::beta_end).doc("and at last").above(0);
  f.field("warmup", &S::warmup).doc("share of the iterations without that term").minimum(0).below(1);
}
