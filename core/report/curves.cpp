// Curves: what metrics.jsonl says, stage by stage.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/report/html.h"
#include "core/report/sections.h"

namespace qat::report {
namespace {

using Json = nlohmann::ordered_json;

/// The lines of one stage of one run.
struct Stage {
  size_t run = 0;
  std::vector<const Json*> lines;
};

int64_t integer(const Json& line, const char* key, int64_t otherwise) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number_integer() ? found->get<int64_t>() : otherwise;
}

std::string kind_of(const Json& line) {
  const auto found = line.find("kind");
  return found != line.end() && found->is_string() ? found->get<std::string>() : "run";
}

bool is_fraction(const std::string& key) {
  return key.find("top1") != std::string::npos || key.find("top5") != std::string::npos;
}

/// Stages that belong together: the first float stage of all runs, the first finetune stage, ...
std::vector<std::pair<std::string, std::vector<Stage>>> stages_of(const std::vector<RunReport>& runs) {
  std::vector<std::pair<std::string, std::vector<Stage>>> groups;
  for (size_t run = 0; run < runs.size(); ++run) {
    std::map<std::string, int> seen;
    int64_t current = -1;
    Stage* stage = nullptr;
    for (const Json& line : runs[run].metrics) {
      if (!line.contains("step")) continue;
      if (const int64_t index = integer(line, "stage", 0); index != current || stage == nullptr) {
        current = index;
        const std::string kind = kind_of(line);
        const int number = ++seen[kind];
        const std::string name = number == 1 ? kind : fmt::format("{} {}", kind, number);
        auto group = std::ranges::find_if(groups, [&](const auto& other) { return other.first == name; });
        if (group == groups.end()) {
          groups.push_back({name, {}});
          group = groups.end() - 1;
        }
        group->second.push_back({run, {}});
        stage = &group->second.back();
      }
      stage->lines.push_back(&line);
    }
  }
  return groups;
}

std::vector<std::pair<double, double>> points(const Stage& stage, const std::string& key) {
  std::vector<std::pair<double, double>> all;
  for (const Json* line : stage.lines) {
    const auto value = line->find(key);
    if (value == line->end()) continue;
    const double y = value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
    all.emplace_back(static_cast<double>(integer(*line, "step", 0)), y);
  }
  return all;
}

/// Keys that make a chart together, with what its legend calls them.
struct Chart {
  std::string title;
  std::vector<std::pair<std::string, std::string>> keys;
};

std::vector<Chart> charts_of(const std::vector<Stage>& stages) {
  std::vector<Chart> charts{{"Loss", {{"loss", "batch"}, {"train_loss", "train"}, {"eval_loss", "eval"}}},
                            {"Top-1", {{"train_top1", "train"}, {"eval_top1", "eval"}}},
                            {"Top-5", {{"eval_top5", "eval"}}},
                            {"Learning rate", {{"learning_rate", "rate"}}}};
  std::vector<std::string> known{"stage", "step", "epoch"};
  for (const Chart& chart : charts) {
    for (const auto& [key, name] : chart.keys) known.push_back(key);
  }
  for (const Stage& stage : stages) {
    for (const Json* line : stage.lines) {
      for (const auto& [key, value] : line->items()) {
        if (!value.is_number() || std::ranges::find(known, key) != known.end()) continue;
        known.push_back(key);
        charts.push_back({key, {{key, key}}});
      }
    }
  }
  return charts;
}

std::string draw(const std::vector<RunReport>& runs, const std::string& stage, const Chart& chart,
                 const std::vector<Stage>& stages) {
  std::vector<Series> series;
  std::vector<std::pair<std::string, int>> names;
  for (const Stage& s : stages) {
    for (size_t k = 0; k < chart.keys.size(); ++k) {
      const auto& [key, name] = chart.keys[k];
      Series made{.points = points(s, key)};
      // A float32 loss of one batch is noise behind the epochs' means, and too much with several runs.
      made.faint = key == "loss" || key == "learning_rate";
      if (made.points.empty() || (key == "loss" && runs.size() > 1)) continue;
      made.dashed = runs.size() > 1 && key.starts_with("train_");
      made.colour = static_cast<int>(runs.size() > 1 ? s.run : key.starts_with("eval_") ? 1 : 0);
      made.name = runs.size() > 1 ? runs[s.run].name + ", " + name : name;
      if (key != "loss") names.emplace_back(made.name, made.colour);
      series.push_back(std::move(made));
    }
  }
  if (series.empty()) return "";
  const bool dashed = std::ranges::any_of(series, [](const Series& s) { return s.dashed; });
  if (runs.size() > 1) {
    names.clear();
    for (const Stage& s : stages) names.emplace_back(runs[s.run].name, static_cast<int>(s.run));
  }
  return card(chart.title,
              line_chart(stage + " " + chart.title, series, is_fraction(chart.keys[0].first)) + legend(names),
              dashed ? "dashed: train, solid: eval" : "");
}

/// All numbers of the lines that end an epoch; the exact ones for programs.
std::string epoch_table(const Stage& stage) {
  std::vector<std::string> keys;
  for (const Json* line : stage.lines) {
    if (!line->contains("epoch")) continue;
    for (const auto& [key, value] : line->items()) {
      if (key != "stage" && key != "kind" && std::ranges::find(keys, key) == keys.end()) keys.push_back(key);
    }
  }
  if (keys.empty()) return "";
  std::string out = "<div class=\"scroll\"><table class=\"sortable\"><thead><tr>";
  for (const std::string& key : keys) out += "<th class=\"n\">" + escape(key) + "</th>";
  out += "</tr></thead><tbody>";
  for (const Json* line : stage.lines) {
    if (!line->contains("epoch")) continue;
    out += "<tr>";
    for (const std::string& key : keys) {
      const auto value = line->find(key);
      std::string shown;
      if (value != line->end()) {
        shown = value->is_string() ? escape(value->get<std::string>()) : escape(value->dump());
        if (value->is_number()) {
          const std::string text = value->is_number_integer() ? shown
                                   : is_fraction(key)         ? percent(value->get<double>())
                                                              : number(value->get<double>());
          shown = "<data value=\"" + shown + "\">" + text + "</data>";
        }
      }
      out += "<td class=\"n\">" + shown + "</td>";
    }
    out += "</tr>";
  }
  return out + "</tbody></table></div>";
}

}  // namespace

std::string curves_section(const std::vector<RunReport>& runs) {
  std::string out;
  for (const auto& [name, stages] : stages_of(runs)) {
    std::string charts;
    for (const Chart& chart : charts_of(stages)) charts += draw(runs, name, chart, stages);
    if (charts.empty()) continue;
    out += "<h3>" + escape(name) + "</h3><div class=\"charts\">" + charts + "</div>";
    for (const Stage& stage : stages) {
      const std::string table = epoch_table(stage);
      if (table.empty()) continue;
      out += fmt::format("<details class=\"card\"><summary>Epochs{}</summary>{}</details>",
                         runs.size() < 2 ? "" : ": " + escape(runs[stage.run].name), table);
    }
  }
  return out;
}

}  // namespace qat::report
