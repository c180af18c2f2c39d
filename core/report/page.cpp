#include <fmt/format.h>

#include <array>
#include <utility>

#include "core/report/html.h"
#include "core/report/report.h"
#include "core/report/sections.h"

namespace qat::report {

std::string card(const std::string& title, const std::string& content, const std::string& note) {
  return fmt::format("<figure class=\"card\"><figcaption>{}{}</figcaption>{}</figure>", escape(title),
                     note.empty() ? "" : "<span>" + escape(note) + "</span>", content);
}

std::string legend(const std::vector<std::pair<std::string, int>>& entries) {
  if (entries.size() < 2) return "";
  std::string out = "<p class=\"legend\">";
  for (const auto& [name, colour] : entries) {
    out += fmt::format("<span><i class=\"c{}\"></i>{}</span>", colour % kColours, escape(name));
  }
  return out + "</p>";
}

std::string run_heading(const std::vector<RunReport>& runs, const RunReport& run) {
  return runs.size() < 2 ? "" : "<h3>" + escape(run.name) + "</h3>";
}

std::string data_url(const std::string& png) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out = "data:image/png;base64,";
  for (size_t i = 0; i < png.size(); i += 3) {
    uint32_t bits = 0;
    const size_t count = std::min<size_t>(3, png.size() - i);
    for (size_t j = 0; j < 3; ++j) bits = bits << 8 | (j < count ? static_cast<unsigned char>(png[i + j]) : 0U);
    for (size_t j = 0; j < 4; ++j) out += j <= count ? kDigits[bits >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::string page(const std::vector<RunReport>& runs) {
  struct Section {
    const char* id;
    const char* title;
    std::string (*make)(const std::vector<RunReport>&);
  };
  static constexpr std::array kSections{
      Section{"summary", "Summary", summary_section},       Section{"curves", "Curves", curves_section},
      Section{"layers", "Layers", layers_section},          Section{"grids", "Grids", grids_section},
      Section{"confusion", "Confusion", confusion_section}, Section{"predictions", "Predictions", predictions_section},
      Section{"config", "Config", config_section}};
  std::string links, body, names;
  for (const Section& section : kSections) {
    const std::string content = section.make(runs);
    if (content.empty()) continue;
    links += fmt::format("<a href=\"#{}\">{}</a>", section.id, section.title);
    body += fmt::format("<section id=\"{}\"><h2>{}</h2>{}</section>\n", section.id, section.title, content);
  }
  for (const RunReport& run : runs) names += (names.empty() ? "" : ", ") + run.name;
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
      "<meta name=\"color-scheme\" content=\"light dark\"/><title>{0} - qat report</title>"
      "<style>{1}</style></head>\n<body><header><b>qat report</b><nav>{2}</nav></header>\n<main>{3}</main>"
      "<div id=\"tip\" hidden=\"hidden\"></div><script>{4}</script></body></html>\n",
      escape(names), kStyle, links, body, kScript);
}

}  // namespace qat::report
