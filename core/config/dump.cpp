#include <yaml-cpp/emitter.h>
#include <yaml-cpp/emittermanip.h>

#include <algorithm>
#include <cctype>

#include "core/config/node.h"

namespace qat::config {
namespace {

bool is_null_word(const std::string& text) {
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

/// Whether the text means itself without quotes in every place: a conservative choice.
bool is_safe_plain(const std::string& text) {
  const auto alphanumeric = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  const auto safe = [&](char c) {
    return alphanumeric(c) || std::string_view("./+-%").find(c) != std::string_view::npos;
  };
  if (is_null_word(text) || text.size() > 1000 || !std::all_of(text.begin(), text.end(), safe)) return false;
  const size_t sign = text[0] == '-' || text[0] == '+' || text[0] == '.' || text[0] == '/';
  return text.size() > sign && (alphanumeric(text[sign]) || (sign == 1 && text[1] == '.' && text.size() > 2));
}

void emit_text(YAML::Emitter& out, const std::string& text, bool quoted) {
  if (quoted || !is_safe_plain(text)) out << YAML::DoubleQuoted;
  out << text;
}

void emit(YAML::Emitter& out, const Node& node, bool flow) {
  if (node.is_null()) {
    out << YAML::Null;
  } else if (node.is_scalar()) {
    emit_text(out, node.text(), node.is_quoted());
  } else if (node.is_sequence()) {
    const auto& items = node.items();
    const bool short_items = std::all_of(items.begin(), items.end(), [](const Node& item) { return item.is_scalar(); });
    out << (flow || short_items ? YAML::Flow : YAML::Block) << YAML::BeginSeq;
    for (const Node& item : items) emit(out, item, flow);
    out << YAML::EndSeq;
  } else {
    out << (flow || node.entries().empty() ? YAML::Flow : YAML::Block) << YAML::BeginMap;
    for (const Node::Entry& entry : node.entries()) {
      out << YAML::Key;
      emit_text(out, entry.key, false);
      out << YAML::Value;
      emit(out, entry.value, flow);
    }
    out << YAML::EndMap;
  }
}

std::string emitted(const Node& node, bool flow) {
  YAML::Emitter out;
  out.SetNullFormat(YAML::LowerNull);
  emit(out, node, flow);
  QAT_CHECK(out.good(), "cannot write YAML: {}", out.GetLastError());
  return out.c_str();
}

}  // namespace

std::string Node::yaml() const { return emitted(*this, false) + "\n"; }
std::string Node::inline_yaml() const { return emitted(*this, true); }

}  // namespace qat::config
