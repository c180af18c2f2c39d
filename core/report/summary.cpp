// Summary, confusion, predictions and config.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "core/report/html.h"
#include "core/report/sections.h"

namespace qat::report {
namespace {

const Row* find_row(const RunReport& run, const std::string& start) {
  const auto found =
      std::find_if(run.rows.begin(), run.rows.end(), [&](const Row& row) { return row.name.starts_with(start); });
  return found == run.rows.end() ? nullptr : &*found;
}

std::string tile(const std::string& value, const std::string& what, const std::string& kind = "") {
  return fmt::format("<div class=\"tile {}\"><strong>{}</strong><span>{}</span></div>", kind, escape(value),
                     escape(what));
}

/// The figures that a reader looks for first.
std::string tiles(const RunReport& run) {
  std::string out;
  const Row* reference = find_row(run, "float");
  const Row* last = run.rows.empty() ? nullptr : &run.rows.back();
  if (last != nullptr) out += tile(percent(last->top1), "top-1, " + last->name);
  if (reference != nullptr && last != reference) {
    out += tile(fmt::format("{:+.2f}", 100 * (last->top1 - reference->top1)), "points against float");
    if (last->bytes < reference->bytes) {
      out += tile(fmt::format("{:.1f}x", static_cast<double>(reference->bytes) / static_cast<double>(last->bytes)),
                  "smaller than float");
    }
  }
  if (run.mismatches >= 0) {
    out += tile(grouped(static_cast<uint64_t>(run.mismatches)),
                fmt::format("mismatches in {} values", grouped(static_cast<uint64_t>(run.compared))),
                run.mismatches == 0 ? "good" : "bad");
  }
  return out.empty() ? "" : "<div class=\"tiles\">" + out + "</div>";
}

/// A number with its exact value for programs.
std::string exact(double value, const std::string& shown) {
  return fmt::format("<data value=\"{}\">{}</data>", value, escape(shown));
}

std::string class_name(const RunReport& run, int64_t label) {
  return label >= 0 && label < static_cast<int64_t>(run.classes.size()) ? run.classes[static_cast<size_t>(label)]
                                                                        : std::to_string(label);
}

/// The pairs of classes that are taken for each other most often.
std::string worst_pairs(const RunReport& run) {
  constexpr size_t kShown = 10;
  struct Pair {
    size_t truth, guess;
    int64_t count;
  };
  std::vector<Pair> pairs;
  const size_t n = run.classes.size();
  std::vector<int64_t> totals(n, 0);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      totals[i] += run.confusion[i * n + j];
      if (i != j && run.confusion[i * n + j] > 0) pairs.push_back({i, j, run.confusion[i * n + j]});
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.count > b.count; });
  if (pairs.size() > kShown) pairs.resize(kShown);
  std::string out =
      "<div class=\"scroll\"><table><thead><tr><th>true</th><th>taken for</th><th class=\"n\">images"
      "</th><th class=\"n\">of the class</th></tr></thead><tbody>";
  for (const Pair& pair : pairs) {
    out += fmt::format("<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                       escape(run.classes[pair.truth]), escape(run.classes[pair.guess]), pair.count,
                       percent(static_cast<double>(pair.count) / static_cast<double>(totals[pair.truth]), 1));
  }
  return out + "</tbody></table></div>";
}

std::string class_table(const RunReport& run) {
  const size_t n = run.classes.size();
  std::string out =
      "<div class=\"scroll\"><table class=\"sortable\"><thead><tr><th>class</th><th class=\"n\">images"
      "</th><th>recall</th><th>precision</th></tr></thead><tbody>";
  const auto bar = [](int64_t part, int64_t whole) {
    const double share = whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
    return fmt::format("<td data-v=\"{}\"><span class=\"bar\"><i style=\"width:{:.1f}%\"></i></span>{}</td>", share,
                       100 * share, whole > 0 ? percent(share, 1) : "-");
  };
  for (size_t i = 0; i < n; ++i) {
    int64_t truth = 0, guessed = 0;
    for (size_t j = 0; j < n; ++j) truth += run.confusion[i * n + j], guessed += run.confusion[j * n + i];
    const int64_t right = run.confusion[i * n + i];
    out += fmt::format("<tr><td>{}</td><td class=\"n\">{}</td>{}{}</tr>", escape(run.classes[i]), truth,
                       bar(right, truth), bar(right, guessed));
  }
  return out + "</tbody></table></div>";
}

std::string gallery(const RunReport& run, const std::vector<Prediction>& predictions) {
  constexpr size_t kGuesses = 3;
  std::string out = "<div class=\"gallery\">";
  for (const Prediction& p : predictions) {
    const bool right = !p.guesses.empty() && p.guesses[0].first == p.label;
    const std::string truth = class_name(run, p.label);
    out += fmt::format("<div class=\"shot {}\"><img src=\"{}\" alt=\"{}\" title=\"{}\"/><b>{}</b>",
                       right ? "right" : "wrong", data_url(p.png), escape(truth), escape(p.name), escape(truth));
    for (size_t i = 0; i < std::min(kGuesses, p.guesses.size()); ++i) {
      const auto& [guess, probability] = p.guesses[i];
      out += fmt::format("<span class=\"guess{}\"><i style=\"width:{:.1f}%\"></i><em>{}</em><small>{}</small></span>",
                         guess == p.label ? " right" : "", 100 * probability, escape(class_name(run, guess)),
                         percent(probability, 0));
    }
    out += "</div>";
  }
  return out + "</div>";
}

/// Keys that not all runs give the same value.
std::string differences(const std::vector<RunReport>& runs) {
  std::vector<std::string> keys;
  std::vector<std::map<std::string, std::string>> values(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    for (const auto& [key, value] : runs[i].settings) {
      if (std::ranges::find(keys, key) == keys.end()) keys.push_back(key);
      values[i][key] = value;
    }
  }
  std::string head, rows;
  for (const RunReport& run : runs) head += "<th>" + escape(run.name) + "</th>";
  for (const std::string& key : keys) {
    std::set<std::string> different;
    std::string cells;
    for (auto& run : values) {
      const std::string value = run.contains(key) ? run[key] : "-";
      different.insert(value);
      cells += "<td><code>" + escape(value) + "</code></td>";
    }
    if (different.size() > 1) rows += "<tr><td><code>" + escape(key) + "</code></td>" + cells + "</tr>";
  }
  if (rows.empty()) return "<p class=\"muted\">The runs have the same config.</p>";
  return card("What differs", "<div class=\"scroll\"><table><thead><tr><th>key</th>" + head + "</tr></thead><tbody>" +
                                  rows + "</tbody></table></div>");
}

/// A YAML text with its keys and comments marked.
std::string marked_yaml(const std::string& yaml) {
  std::string out;
  size_t at = 0;
  while (at < yaml.size()) {
    const size_t end = std::min(yaml.find('\n', at), yaml.size());
    const std::string text = yaml.substr(at, end - at);
    const size_t start = text.find_first_not_of(" -");
    const size_t colon = text.find(':');
    const bool has_key = start != std::string::npos && colon != std::string::npos && colon > start &&
                         text.find_first_of(" '\"{[", start) > colon;
    if (has_key) {
      out += escape(text.substr(0, start)) + "<b>" + escape(text.substr(start, colon - start)) + "</b>" +
             escape(text.substr(colon));
    } else {
      out += escape(text);
    }
    out += "\n";
    at = end + 1;
  }
  return out;
}

}  // namespace

std::string summary_section(const std::vector<RunReport>& runs) {
  std::string out;
  for (size_t i = 0; i < runs.size(); ++i) {
    const RunReport& run = runs[i];
    out += fmt::format("<div class=\"run\"><h3><i class=\"c{}\"></i>{}</h3>", i % kColours, escape(run.name));
    out += tiles(run);
    if (!run.facts.empty()) {
      out += "<dl>";
      for (const auto& [key, value] : run.facts) {
        out += "<div><dt>" + escape(key) + "</dt><dd>" + escape(value) + "</dd></div>";
      }
      out += "</dl>";
    }
    for (const std::string& note : run.notes) out += "<p class=\"note\">" + escape(note) + "</p>";
    out += "</div>";
  }
  out = fmt::format("<div class=\"runs\">{}</div>", out);

  std::string rows;
  for (size_t i = 0; i < runs.size(); ++i) {
    const Row* reference = find_row(runs[i], "float");
    for (const Row& row : runs[i].rows) {
      const bool other = reference != nullptr && &row != reference;
      rows += fmt::format(
          "<tr><td>{}</td><td data-v=\"{}\"><span class=\"bar\"><i class=\"c{}\" style=\"width:{:.2f}%\"></i></span>{}"
          "</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>"
          "<td class=\"n\">{}</td></tr>",
          (runs.size() < 2 ? "" : "<span class=\"muted\">" + escape(runs[i].name) + "</span> ") + escape(row.name),
          row.top1, i % kColours, 100 * row.top1, exact(row.top1, percent(row.top1)),
          other ? fmt::format("{:+.2f}", 100 * (row.top1 - reference->top1)) : "", exact(row.top5, percent(row.top5)),
          exact(row.loss, fmt::format("{:.4f}", row.loss)), grouped(row.bytes),
          row.latency_ms ? fmt::format("{:.3f}", *row.latency_ms) : "-");
    }
  }
  if (rows.empty()) return out;
  return out + card("Accuracy and size",
                    "<div class=\"scroll\"><table class=\"sortable\"><thead><tr><th>network</th><th>top-1</th>"
                    "<th class=\"n\">against float</th><th class=\"n\">top-5</th><th class=\"n\">loss</th>"
                    "<th class=\"n\">bytes</th><th class=\"n\">ms per image</th></tr></thead><tbody>" +
                        rows + "</tbody></table></div>");
}

std::string confusion_section(const std::vector<RunReport>& runs) {
  constexpr size_t kMostClasses = 100;
  std::string out;
  for (const RunReport& run : runs) {
    if (run.confusion.empty()) continue;
    out += run_heading(runs, run) + "<div class=\"charts wide\">";
    if (run.classes.size() <= kMostClasses) {
      out += card("Confusion matrix", confusion_chart(run.classes, run.confusion), "rows: true, columns: predicted");
    }
    out += card("Most confused", worst_pairs(run)) + card("By class", class_table(run)) + "</div>";
  }
  return out;
}

std::string predictions_section(const std::vector<RunReport>& runs) {
  std::string out;
  for (const RunReport& run : runs) {
    if (run.samples.empty() && run.mistakes.empty()) continue;
    out += run_heading(runs, run);
    if (!run.samples.empty()) out += card("A sample of the evaluation images", gallery(run, run.samples));
    if (!run.mistakes.empty()) out += card("The surest mistakes", gallery(run, run.mistakes));
  }
  return out;
}

std::string config_section(const std::vector<RunReport>& runs) {
  std::string out;
  if (runs.size() > 1) out += differences(runs);
  for (const RunReport& run : runs) {
    out += fmt::format("<details class=\"card\"{}><summary>{}</summary><pre>{}</pre></details>",
                       runs.size() < 2 ? " open=\"open\"" : "", escape(run.name), marked_yaml(run.config));
  }
  return out;
}

}  // namespace qat::report
