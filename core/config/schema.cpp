#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/base/text.h"
#include "core/config/config.h"

namespace qat::config {

Field& Field::doc(std::string text) {
  doc_ = std::move(text);
  return *this;
}
Field& Field::minimum(double bound) {
  minimum_ = bound;
  return *this;
}
Field& Field::maximum(double bound) {
  maximum_ = bound;
  return *this;
}
Field& Field::above(double bound) {
  above_ = bound;
  return *this;
}
Field& Field::below(double bound) {
  below_ = bound;
  return *this;
}
Field& Field::one_of(std::vector<std::string> choices) {
  choices_ = std::move(choices);
  return *this;
}
Field& Field::required() {
  required_ = true;
  return *this;
}

std::string Field::bounds() const {
  if (!choices_.empty()) return "one of: " + join(choices_);
  std::vector<std::string> parts;
  if (minimum_) parts.push_back(fmt::format(">= {}", *minimum_));
  if (above_) parts.push_back(fmt::format("> {}", *above_));
  if (maximum_) parts.push_back(fmt::format("<= {}", *maximum_));
  if (below_) parts.push_back(fmt::format("< {}", *below_));
  return join(parts);
}

bool Field::admits(double value) const {
  return !(minimum_ && value < *minimum_) && !(above_ && value <= *above_) && !(maximum_ && value > *maximum_) &&
         !(below_ && value >= *below_);
}

namespace detail {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// The text of a number without a plus sign. Refuses quoted texts and leading zeros (octal in YAML 1.1, decimal
/// in 1.2).
std::string number_text(const Node& node, const char* expected) {
  if (!node.is_scalar() || node.is_quoted())
    throw node.error(fmt::format("expected {}, found {}", expected, node.describe()));
  std::string text = node.text();
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.erase(0, 1);
  const size_t first = text[0] == '-' ? 1 : 0;
  if (text.size() > first + 1 && text[first] == '0' && is_digit(text[first + 1])) {
    throw node.error(fmt::format("expected {} without leading zeros, found {}", expected, node.describe()));
  }
  return text;
}

std::optional<double> to_double(const std::string& text) {
  double value = 0.0;
  const char* end = text.data() + text.size();
  const auto [stop, status] = std::from_chars(text.data(), end, value);
  if (status != std::errc() || stop != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

[[noreturn]] void out_of_bounds(const Node& node, const std::string& bounds) {
  throw node.error(fmt::format("{} is out of bounds: expected {}", node.text(), bounds));
}

/// Texts that a YAML reader could take for something else than a string.
bool looks_typed(const std::string& text) {
  if (text.empty() || is_digit(text[0]) || std::string_view("+-.~").find(text[0]) != std::string_view::npos)
    return true;
  std::string lower = text;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const char* word : {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}) {
    if (lower == word) return true;
  }
  return false;
}

std::string cell(const std::string& text) {
  std::string escaped;
  for (const char c : one_line(text)) escaped += c == '|' ? std::string("\\|") : std::string(1, c);
  return escaped;
}

}  // namespace

bool decode_bool(const Node& node) {
  const bool plain = node.is_scalar() && !node.is_quoted();
  if (plain && node.text() == "true") return true;
  if (plain && node.text() == "false") return false;
  throw node.error("expected true or false, found " + node.describe());
}

int64_t decode_integer(const Node& node, const Field& field, int64_t lowest, int64_t highest) {
  const std::string text = number_text(node, "an integer");
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, status] = std::from_chars(text.data(), end, value);
  const bool whole = stop == end && status != std::errc::invalid_argument;
  if (!whole) {
    const std::optional<double> number = to_double(text);
    const bool integral = number && *number == std::trunc(*number) && std::abs(*number) < 1e15;
    throw node.error(fmt::format("expected an integer, found {}{}", node.describe(),
                                 integral ? fmt::format(" (write {})", static_cast<int64_t>(*number)) : ""));
  }
  if (status != std::errc() || value < lowest || value > highest) {
    out_of_bounds(node, fmt::format(">= {}, <= {}", lowest, highest));
  }
  if (!field.admits(static_cast<double>(value))) out_of_bounds(node, field.bounds());
  return value;
}

double decode_double(const Node& node, const Field& field) {
  const std::optional<double> value = to_double(number_text(node, "a number"));
  if (!value) throw node.error("expected a finite number, found " + node.describe());
  if (!field.admits(*value)) out_of_bounds(node, field.bounds());
  return *value;
}

std::string decode_string(const Node& node, const Field& field) {
  if (!node.is_scalar()) throw node.error("expected a string, found " + node.describe());
  const std::vector<std::string>& choices = field.choices();
  if (!choices.empty() && std::find(choices.begin(), choices.end(), node.text()) == choices.end()) {
    throw node.error(fmt::format("expected {}, found {}{}", field.bounds(), in_quotes(node.text()),
                                 did_you_mean(node.text(), choices)));
  }
  return node.text();
}

Node encode_integer(int64_t value) { return Node::scalar(fmt::format("{}", value)); }

Node encode_double(double value) {
  QAT_CHECK(std::isfinite(value), "cannot write the number {} into a config", value);
  return Node::scalar(fmt::format("{}", value));
}

Node encode_string(const std::string& value) { return Node::scalar(value, looks_typed(value)); }

void unknown_key(const Node& map, const Node::Entry& entry, const std::vector<std::string>& valid) {
  const std::string& location = entry.key_location.empty() ? entry.value.location() : entry.key_location;
  throw Node::null({location, child_path(map.path(), entry.key)})
      .error(fmt::format("unknown key{}; valid keys: {}", did_you_mean(entry.key, valid), join(valid)));
}

void missing_key(const Node& map, const std::string& key) { throw map.error("missing key " + in_quotes(key)); }

void require_map(const Node& node, const std::vector<std::string>& valid) {
  if (node.is_null() || node.is_map()) return;
  throw node.error(
      fmt::format("expected a map{}{}, found {}", valid.empty() ? "" : " with keys of ", join(valid), node.describe()));
}

void require_list(const Node& node) {
  if (!node.is_sequence()) throw node.error("expected a list, found " + node.describe());
}

std::string docs_table(const std::vector<DocRow>& rows) {
  std::string table = "| key | type | default | bounds | meaning |\n|---|---|---|---|---|\n";
  for (const DocRow& row : rows) {
    table += fmt::format("| `{}` | {} | {} | {} | {} |\n", cell(row.key), cell(row.type), cell(row.default_value),
                         cell(row.bounds), cell(row.doc));
  }
  return table;
}

}  // namespace detail
}  // namespace qat::config
