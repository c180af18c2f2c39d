// Layers: how each tensor is quantized and what it costs; and the values on their grids.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>

#include "core/report/html.h"
#include "core/report/sections.h"

namespace qat::report {
namespace {

/// A signal this far above its quantization noise fills the bar.
constexpr double kFullBarDb = 60;

std::string decibel(double value) { return std::isfinite(value) ? fmt::format("{:.1f} dB", value) : "exact"; }

std::string decibel_cell(const std::optional<double>& value, size_t colour) {
  if (!value) return "<td></td>";
  const double share = std::isfinite(*value) ? std::clamp(*value / kFullBarDb, 0.0, 1.0) : 1.0;
  return fmt::format(
      "<td data-v=\"{}\"><span class=\"bar\"><i class=\"c{}\" style=\"width:{:.0f}%\"></i></span>{}</td>",
      std::isfinite(*value) ? *value : 1e9, colour % kColours, 100 * share, decibel(*value));
}

std::string tensor_cells(const std::optional<TensorReport>& tensor, bool with_clipped, size_t colour) {
  if (!tensor) return with_clipped ? "<td></td><td></td><td></td><td></td>" : "<td></td><td></td><td></td>";
  std::string out = fmt::format("<td>{} <b>{}</b> <span class=\"muted\">{}</span></td>", escape(tensor->quantizer),
                                tensor->bits, escape(tensor->how));
  out += fmt::format("<td class=\"n\">{} … {}</td>", number(tensor->range.min), number(tensor->range.max));
  out += decibel_cell(tensor->sqnr_db, colour);
  if (with_clipped) {
    out += fmt::format("<td class=\"n\" data-v=\"{}\">{}</td>", tensor->clipped, percent(tensor->clipped));
  }
  return out;
}

std::string layer_table(const RunReport& run, size_t colour) {
  std::string out =
      "<div class=\"scroll tall\"><table class=\"sortable\"><thead><tr><th>layer</th><th>type</th><th>output</th>"
      "<th>weight</th><th class=\"n\">values</th><th>SQNR</th><th>activation</th><th class=\"n\">values</th>"
      "<th>SQNR</th><th class=\"n\">clipped</th><th>accumulated</th><th>note</th></tr></thead><tbody>";
  for (const LayerReport& layer : run.layers) {
    out += fmt::format(
        "<tr><td>{}</td><td class=\"muted\">{}</td><td class=\"muted\">{}</td>{}{}{}<td class=\"muted\">"
        "{}</td></tr>",
        escape(layer.name), escape(layer.type), escape(layer.sizes), tensor_cells(layer.weight, false, colour),
        tensor_cells(layer.output, true, colour),
        decibel_cell(layer.output ? layer.output->accumulated_db : std::nullopt, colour), escape(layer.note));
  }
  return out + "</tbody></table></div>";
}

/// A figure of each layer of all runs; none where no layer has it.
std::string compare(const std::vector<RunReport>& runs, const std::string& title, const std::string& note,
                    const std::function<std::optional<double>(const LayerReport&)>& figure) {
  std::vector<std::string> rows;
  for (const RunReport& run : runs) {
    for (const LayerReport& layer : run.layers) {
      if (figure(layer) && std::ranges::find(rows, layer.name) == rows.end()) rows.push_back(layer.name);
    }
  }
  if (rows.empty()) return "";
  std::vector<Dots> dots;
  std::vector<std::pair<std::string, int>> names;
  for (size_t i = 0; i < runs.size(); ++i) {
    Dots run{runs[i].name, static_cast<int>(i), std::vector<std::optional<double>>(rows.size())};
    for (const LayerReport& layer : runs[i].layers) {
      const auto row = std::ranges::find(rows, layer.name);
      if (row != rows.end()) run.values[static_cast<size_t>(row - rows.begin())] = figure(layer);
    }
    names.emplace_back(run.name, run.colour);
    dots.push_back(std::move(run));
  }
  return card(title, "<div class=\"tall\">" + dot_chart(title, "dB", rows, dots) + "</div>" + legend(names), note);
}

std::string ranges(const RunReport& run, const std::string& title, size_t colour,
                   std::optional<TensorReport> LayerReport::*which) {
  std::vector<Range> all;
  for (const LayerReport& layer : run.layers) {
    const std::optional<TensorReport>& tensor = layer.*which;
    if (!tensor) continue;
    all.push_back(tensor->range);
    all.back().name = layer.name;
  }
  if (all.empty()) return "";
  return card(title, "<div class=\"tall\">" + range_chart(title, all, static_cast<int>(colour)) + "</div>",
              "line: values, band: codes");
}

std::string grids(const RunReport& run, size_t colour, std::optional<TensorReport> LayerReport::*which) {
  std::string out;
  for (const LayerReport& layer : run.layers) {
    const std::optional<TensorReport>& tensor = layer.*which;
    if (!tensor || tensor->histogram.counts.empty()) continue;
    const size_t levels = tensor->histogram.levels.size();
    out += card(layer.name, level_chart(layer.name, tensor->histogram, static_cast<int>(colour)),
                fmt::format("{} {}{}{}", tensor->quantizer, tensor->bits, tensor->bits == 1 ? " bit" : " bits",
                            levels > 0 ? fmt::format(", {} levels", levels) : ""));
  }
  return out;
}

}  // namespace

std::string layers_section(const std::vector<RunReport>& runs) {
  std::string charts;
  charts += compare(runs, "SQNR of weights", "signal to quantization noise", [](const LayerReport& layer) {
    return layer.weight ? std::optional(layer.weight->sqnr_db) : std::nullopt;
  });
  charts += compare(runs, "SQNR of activations", "each tensor by itself", [](const LayerReport& layer) {
    return layer.output ? std::optional(layer.output->sqnr_db) : std::nullopt;
  });
  charts += compare(runs, "SQNR accumulated", "against the float network", [](const LayerReport& layer) {
    return layer.output ? layer.output->accumulated_db : std::nullopt;
  });
  std::string out = charts.empty() ? "" : "<div class=\"charts\">" + charts + "</div>";
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].layers.empty()) continue;
    out += run_heading(runs, runs[i]);
    const std::string spans = ranges(runs[i], "Ranges of weights", i, &LayerReport::weight) +
                              ranges(runs[i], "Ranges of activations", i, &LayerReport::output);
    if (!spans.empty()) out += "<div class=\"charts\">" + spans + "</div>";
    out += card("All layers", layer_table(runs[i], i), "sortable by its heads");
  }
  return out;
}

std::string grids_section(const std::vector<RunReport>& runs) {
  std::string out;
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::string weights = grids(runs[i], i, &LayerReport::weight),
                      activations = grids(runs[i], i, &LayerReport::output);
    if (weights.empty() && activations.empty()) continue;
    out += run_heading(runs, runs[i]);
    if (!weights.empty()) {
      out += "<h4>Weights, in steps of their scales; the marks are the levels</h4><div class=\"small\">" + weights +
             "</div>";
    }
    if (!activations.empty()) {
      out += "<h4>Activations of the float network, in steps</h4><div class=\"small\">" + activations + "</div>";
    }
  }
  return out;
}

}  // namespace qat::report
