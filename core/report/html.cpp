#include "core/report/html.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace qat::report {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";

/// Bytes of the UTF-8 character at the front of `text`; 0 where there is none.
size_t character_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return lead >= 0x20 || lead == '\n' || lead == '\t' || lead == '\r' ? 1 : 0;
  const size_t length = lead >= 0xc2 && lead < 0xe0   ? 2
                        : lead >= 0xe0 && lead < 0xf0 ? 3
                        : lead >= 0xf0 && lead < 0xf5 ? 4
                                                      : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Not the shortest form, a surrogate, beyond the last character, or U+FFFE and U+FFFF.
  if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f) || (lead == 0xf0 && byte(1) < 0x90) ||
      (lead == 0xf4 && byte(1) > 0x8f) || (lead == 0xef && byte(1) == 0xbf && byte(2) > 0xbd)) {
    return 0;
  }
  return length;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t length = character_length(text);
    if (length == 0) {
      out += kReplacement;
      text.remove_prefix(1);
      continue;
    }
    switch (text[0]) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  return out;
}

std::string number(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::fabs(value);
  if (size != 0 && (size < 1e-3 || size >= 1e7)) return fmt::format("{:.2g}", value);
  const int digits = size < 1 ? 4 : size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0;
  std::string text = fmt::format("{:.{}f}", value, digits);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.ends_with('.')) text.pop_back();
  }
  return text == "-0" ? "0" : text;
}

std::string percent(double fraction, int digits) {
  return std::isfinite(fraction) ? fmt::format("{:.{}f} %", 100 * fraction, digits) : "-";
}

std::string grouped(uint64_t count) {
  std::string text = std::to_string(count);
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, "\xc2\xa0");
  return text;
}

std::string shortened(const std::string& text, size_t length) {
  // Cuts between characters: continuation bytes belong to what stands before them.
  const auto is_start = [&](size_t i) { return (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80; };
  size_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i) characters += is_start(i);
  if (characters <= length) return text;
  const size_t head = (length - 1) / 2, tail = length - 1 - head;
  std::string out;
  size_t seen = 0;
  bool cut = false;
  for (size_t i = 0; i < text.size(); ++i) {
    seen += is_start(i);
    if (seen <= head || seen > characters - tail) {
      out += text[i];
    } else if (!std::exchange(cut, true)) {
      out += "\xe2\x80\xa6";
    }
  }
  return out;
}

}  // namespace qat::report
