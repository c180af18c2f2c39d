#include "trainers/events.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/base/files.h"
#include "core/log/log.h"
#include "core/log/metrics.h"
#include "core/nn/weighted.h"

namespace qat::trainers {
namespace {

using Json = nlohmann::ordered_json;

std::span<const float> values_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

log::Histogram histogram_of(std::string tag, const at::Tensor& tensor) {
  const at::Tensor values = tensor.detach().to(at::kFloat).contiguous();
  return log::make_histogram(std::move(tag), values_of(values));
}

/// "eval_top1" -> "eval/top1"; "loss" of a step -> "step/loss", of verify -> "verify/loss".
std::string tag_of(const std::string& key, const Json& line) {
  for (const std::string prefix : {"eval", "train"}) {
    if (key.starts_with(prefix + "_")) return prefix + "/" + key.substr(prefix.size() + 1);
  }
  return (line.contains("step") ? "step" : line.value("kind", "run")) + "/" + key;
}

void add_weights(log::Event& event, const graph::GraphModule& net) {
  for (const graph::GraphModule::Step& step : net.steps()) {
    const auto* layer = dynamic_cast<const nn::WeightedLayer*>(step.layer.get());
    if (layer == nullptr) continue;
    event.histograms.push_back(histogram_of("weights/" + layer->label(), layer->tensors().weight));
  }
}

void add_ranges(log::Event& event, const graph::GraphModule& net) {
  std::vector<float> scales;
  for (const graph::GraphModule::Step& step : net.steps()) {
    const nn::QLayer& layer = *step.layer;
    if (const auto& q = layer.weight_quantizer(); q && q->initialized() && q->traits().affine) {
      const at::Tensor scale = q->qparams().scale;
      if (scale.numel() == 1) {
        event.scalars.push_back({"weight_scale/" + layer.label(), scale.item<double>()});
      } else {
        event.histograms.push_back(histogram_of("weight_scales/" + layer.label(), scale));
      }
    }
    if (const auto& q = layer.output_quantizer(); q && q->initialized() && q->traits().affine) {
      const quant::QParams params = q->qparams();
      const double scale = params.scale.item<double>(), zero = params.zero_point.item<double>();
      event.scalars.push_back({"activation_min/" + layer.label(), scale * (q->spec().lo() - zero)});
      event.scalars.push_back({"activation_max/" + layer.label(), scale * (q->spec().hi() - zero)});
      scales.push_back(static_cast<float>(scale));
    }
  }
  if (!scales.empty()) event.histograms.push_back(log::make_histogram("activation_scales", scales));
}

}  // namespace

EventLog::EventLog(const Session& session, const RunFolder& folder) : session_(session) {
  try {
    const std::vector<Json> lines = log::read_metrics(folder.metrics());
    const auto kept = static_cast<size_t>(log::cut_events(folder.events(), static_cast<int64_t>(lines.size())));
    std::vector<log::Event> missing;
    for (size_t i = 0; i < lines.size(); ++i) {
      log::Event event = event_of(lines[i]);
      if (i >= kept) missing.push_back(std::move(event));
    }
    const int64_t first = missing.empty() ? step_ + (lines.empty() ? 0 : 1) : missing.front().step;
    writer_ = std::make_unique<log::EventWriter>(folder.events(), first);
    for (const log::Event& event : missing) writer_->write(event);
  } catch (const FileError& error) {
    log::warn("{}: no more events for TensorBoard", error.what());
    writer_.reset();
  }
}

log::Event EventLog::event_of(const Json& line) {
  const auto number = [&](const char* key, int64_t otherwise) {
    const auto found = line.find(key);
    return found != line.end() && found->is_number_integer() ? found->get<int64_t>() : otherwise;
  };
  if (const int64_t stage = number("stage", stage_); stage != stage_) {
    stage_ = stage;
    first_step_ = step_;
  }
  step_ = std::max(step_, first_step_ + number("step", 0));
  log::Event event{.step = step_, .scalars = {}, .histograms = {}};
  for (const auto& [key, value] : line.items()) {
    if (key == "stage" || key == "step" || key == "epoch" || !value.is_number()) continue;
    event.scalars.push_back({tag_of(key, line), value.get<double>()});
  }
  return event;
}

void EventLog::add(const Json& line) {
  log::Event event = event_of(line);
  if (!writer_) return;
  try {
    if (line.contains("eval_top1")) {
      if (session_.net) {
        add_weights(event, *session_.net);
        if (session_.net->phase() != nn::Phase::kFloat) add_ranges(event, *session_.net);
      } else {
        for (const auto& item : session_.model.module->named_parameters()) {
          if (item.value().dim() > 1) event.histograms.push_back(histogram_of("weights/" + item.key(), item.value()));
        }
      }
    }
    writer_->write(event);
  } catch (const FileError& error) {
    log::warn("{}: no more events for TensorBoard", error.what());
    writer_.reset();
  }
}

}  // namespace qat::trainers
