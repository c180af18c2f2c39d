#include "trainers/layer_reports.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/unique_dim.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "core/base/text.h"
#include "core/nn/weighted.h"

namespace qat::trainers {
namespace {

using report::LayerReport;
using report::LevelHistogram;
using report::TensorReport;

constexpr size_t kMostLevels = 256;

double largest(const at::Tensor& x) { return x.numel() > 0 ? x.max().item<double>() : 0; }
double smallest(const at::Tensor& x) { return x.numel() > 0 ? x.min().item<double>() : 0; }

/// 10 log10 of the signal's power over that of the difference; infinite where there is none.
double sqnr_db(const at::Tensor& signal, const at::Tensor& quantized) {
  const at::Tensor x = signal.to(at::kDouble);
  const double power = x.square().sum().item<double>();
  const double noise = (x - quantized.to(at::kDouble)).square().sum().item<double>();
  return noise > 0 ? 10 * std::log10(power / noise) : std::numeric_limits<double>::infinity();
}

/// The distinct values, when there are few.
std::vector<double> levels_of(const at::Tensor& values) {
  std::set<double> found;
  const at::Tensor flat = values.contiguous();
  const float* value = flat.const_data_ptr<float>();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    found.insert(std::round(static_cast<double>(value[i]) * 1e5) / 1e5);  // what rounding leaves of equal levels
    if (found.size() > kMostLevels) return {};
  }
  return {found.begin(), found.end()};
}

/// Bins that lie evenly around the levels; what is far outside of them counts in the outermost ones.
LevelHistogram histogram_of(const at::Tensor& values, std::vector<double> levels, double step) {
  constexpr double kMostBins = 160;
  LevelHistogram h;
  h.levels = std::move(levels);
  double low = smallest(values), high = largest(values);
  if (!h.levels.empty()) {
    const double margin = std::max(2 * step, (h.levels.back() - h.levels.front()) / 4);
    low = std::min(std::max(low, h.levels.front() - margin), h.levels.front());
    high = std::max(std::min(high, h.levels.back() + margin), h.levels.back());
  }
  if (!(high > low)) high = low + step;
  h.width = step / 8;
  while ((high - low) / h.width > kMostBins) h.width *= 2;
  // With bins of a step and more, levels are in their middle.
  h.first = std::floor(low / step) * step - std::max(h.width, step) / 2;
  h.counts.assign(static_cast<size_t>(std::ceil((high - h.first) / h.width)) + 1, 0);
  const at::Tensor flat = values.contiguous();
  const float* value = flat.const_data_ptr<float>();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    const double bin = std::floor((static_cast<double>(value[i]) - h.first) / h.width);
    if (std::isfinite(bin)) {
      h.counts[static_cast<size_t>(std::clamp(bin, 0.0, static_cast<double>(h.counts.size() - 1)))] += 1;
    }
  }
  return h;
}

/// values: contiguous; a weight's output channels first.
TensorReport tensor_report(quant::Quantizer& quantizer, const at::Tensor& values) {
  const quant::QuantSpec& spec = quantizer.spec();
  const at::Tensor quantized = quantizer.forward(values).to(at::kFloat).contiguous();
  TensorReport r{.quantizer = quantizer.method(), .bits = spec.bits};
  r.how = !spec.is_weight()                                  ? (spec.is_signed ? "signed" : "unsigned")
          : spec.granularity == quant::Granularity::kChannel ? "per channel"
          : spec.granularity == quant::Granularity::kGroup   ? "per group"
                                                             : "per tensor";
  r.sqnr_db = sqnr_db(values, quantized);
  r.range = {"", smallest(values), largest(values), smallest(quantized), largest(quantized)};
  const int64_t scales = spec.scales();
  const at::Tensor rows = values.reshape({scales, -1}), levels = quantized.reshape({scales, -1});
  const quant::Traits traits = quantizer.traits();
  if (traits.affine) {
    const quant::QParams params = quantizer.qparams();
    const at::Tensor scale = params.scale.to(at::kFloat).reshape({-1, 1});
    const at::Tensor zero = params.zero_point.to(at::kFloat).reshape({-1, 1});
    const double lo = spec.lo(), hi = spec.hi();
    r.range.lowest = smallest(scale * (lo - zero));
    r.range.highest = largest(scale * (hi - zero));
    const at::Tensor steps = rows / scale;
    constexpr double kRounding = 0.5 + 1e-4;  // of a step; float32 has its own
    const at::Tensor outside = (steps < lo - kRounding - zero).logical_or(steps > hi + kRounding - zero);
    r.clipped = outside.to(at::kDouble).mean().item<double>();
    std::vector<double> grid;
    if (traits.integer_levels && hi - lo < static_cast<double>(kMostLevels)) {
      const double origin = zero[0].item<double>();
      for (double code = lo; code <= hi; ++code) grid.push_back(code - origin);
    } else {
      grid = levels_of((levels / scale).round());
    }
    r.in_steps = true;
    r.histogram = histogram_of(steps, std::move(grid), 1);
    return r;
  }
  // In units of the outermost level of each row.
  const at::Tensor unit = std::get<0>(levels.abs().max(1, true)).clamp_min(1e-30);
  r.histogram = histogram_of(rows / unit, levels_of(levels / unit), 0.125);
  return r;
}

/// Images that all layers' values fit in memory for.
at::Tensor some_images(const Session& session) {
  constexpr int64_t kImages = 64, kValues = int64_t{1} << 25;
  int64_t values = 1;
  for (const auto& step : session.net->steps()) {
    int64_t size = 1;
    for (const int64_t side : step.sizes) size *= side;
    values += size;
  }
  const auto loader = eval_loader(session, std::clamp<int64_t>(kValues / values, 1, kImages));
  datasets::Batch batch, all;
  loader->start_epoch(0);
  while (loader->next(batch)) {
    all.size += batch.size;
    all.images.insert(all.images.end(), batch.images.begin(), batch.images.end());
    all.labels.insert(all.labels.end(), batch.labels.begin(), batch.labels.end());
  }
  return to_tensors(all, loader->shape()).images;
}

std::string sizes_text(const std::vector<int64_t>& sizes) {
  std::vector<std::string> parts;
  for (const int64_t size : sizes) parts.push_back(std::to_string(size));
  return join(parts, " x ");
}

}  // namespace

std::vector<LayerReport> layer_reports(Session& session) {
  graph::GraphModule& net = *session.net;
  const nn::Phase phase = net.phase();
  QAT_CHECK(phase == nn::Phase::kLive || phase == nn::Phase::kFrozen, "the network is not quantized yet");
  const at::NoGradGuard no_grad;
  net.eval();
  const at::Tensor images = some_images(session);

  std::map<std::string, at::Tensor> exact;
  net.set_phase(nn::Phase::kFloat);
  net.forward(images, [&](const nn::QLayer& layer, const nn::Value& value) {
    if (layer.output_quantizer()) exact[layer.label()] = nn::to_float(value);
  });
  net.set_phase(phase);
  std::map<std::string, double> accumulated;
  net.forward(images, [&](const nn::QLayer& layer, const nn::Value& value) {
    const auto found = exact.find(layer.label());
    if (found != exact.end()) accumulated[layer.label()] = sqnr_db(found->second, nn::to_float(value));
  });

  std::map<std::string, std::string> reasons;
  const graph::InsertReport& inserted = session.quantizers;
  for (size_t i = 0; i < inserted.float_layers.size(); ++i) {
    reasons[inserted.float_layers[i]] = "in float: " + inserted.float_reasons[i];
  }
  std::vector<LayerReport> reports;
  for (const graph::GraphModule::Step& step : net.steps()) {
    const nn::QLayer& layer = *step.layer;
    LayerReport report{.name = layer.label(), .type = layer.type(), .sizes = sizes_text(step.sizes)};
    if (const auto* weighted = dynamic_cast<const nn::WeightedLayer*>(&layer); weighted && layer.weight_quantizer()) {
      const at::Tensor weight = weighted->weight_to_quantize().detach().to(at::kFloat).contiguous();
      report.weight = tensor_report(*layer.weight_quantizer(), weight);
    }
    if (const auto found = exact.find(layer.label()); found != exact.end()) {
      report.output = tensor_report(*layer.output_quantizer(), found->second.contiguous());
      report.output->accumulated_db = accumulated.at(layer.label());
    }
    if (const auto reason = reasons.find(layer.label()); reason != reasons.end()) {
      report.note = reason->second;
    } else if (!report.weight && !report.output) {
      report.note = "passes its input on";
    } else if (report.weight && !report.output) {
      report.note = "its output is float";
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace qat::trainers
