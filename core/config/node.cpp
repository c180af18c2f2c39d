#include "core/config/node.h"

#include <set>

#include "core/base/text.h"

namespace qat::config {

struct Node::Data {
  enum class Kind { kNull, kScalar, kSequence, kMap } kind = Kind::kNull;
  Place place;
  std::string text;
  bool quoted = false;
  std::vector<Node> items;
  std::vector<Entry> entries;
};

std::string child_path(const std::string& path, const std::string& key) {
  return path.empty() ? one_line(key) : path + "." + one_line(key);
}

std::string child_path(const std::string& path, size_t index) { return fmt::format("{}[{}]", path, index); }

Node::Node(Data data) : data_(std::make_shared<const Data>(std::move(data))) {}

Node Node::null(Place place) { return Node(Data{Data::Kind::kNull, std::move(place), {}, false, {}, {}}); }

Node Node::scalar(std::string text, bool quoted, Place place) {
  return Node(Data{Data::Kind::kScalar, std::move(place), std::move(text), quoted, {}, {}});
}

Node Node::sequence(std::vector<Node> items, Place place) {
  return Node(Data{Data::Kind::kSequence, std::move(place), {}, false, std::move(items), {}});
}

Node Node::map(std::vector<Entry> entries, Place place) {
  std::set<std::string_view> seen;
  for (const Entry& entry : entries) QAT_CHECK(seen.insert(entry.key).second, "the key '{}' is there twice", entry.key);
  return Node(Data{Data::Kind::kMap, std::move(place), {}, false, {}, std::move(entries)});
}

bool Node::is_null() const { return !data_ || data_->kind == Data::Kind::kNull; }
bool Node::is_scalar() const { return data_ && data_->kind == Data::Kind::kScalar; }
bool Node::is_sequence() const { return data_ && data_->kind == Data::Kind::kSequence; }
bool Node::is_map() const { return data_ && data_->kind == Data::Kind::kMap; }

const std::string& Node::text() const {
  if (!is_scalar()) throw error("expected a single value, found " + describe());
  return data_->text;
}

bool Node::is_quoted() const { return is_scalar() && data_->quoted; }

const std::vector<Node>& Node::items() const {
  if (!is_sequence()) throw error("expected a list, found " + describe());
  return data_->items;
}

const std::vector<Node::Entry>& Node::entries() const {
  static const std::vector<Entry> kNone;
  if (is_null()) return kNone;
  if (!is_map()) throw error("expected a map, found " + describe());
  return data_->entries;
}

std::vector<std::string> Node::keys() const {
  std::vector<std::string> keys;
  for (const Entry& entry : entries()) keys.push_back(entry.key);
  return keys;
}

std::optional<Node> Node::find(std::string_view key) const {
  for (const Entry& entry : entries()) {
    if (entry.key == key) return entry.value;
  }
  return std::nullopt;
}

const Node& Node::at(std::string_view key) const {
  for (const Entry& entry : entries()) {
    if (entry.key == key) return entry.value;
  }
  throw error(fmt::format("missing key {}{}", in_quotes(key), did_you_mean(key, keys())));
}

Node Node::without(std::string_view key) const {
  std::vector<Entry> kept;
  for (const Entry& entry : entries()) {
    if (entry.key != key) kept.push_back(entry);
  }
  return map(std::move(kept), {location(), path()});
}

Node Node::with(std::string_view key, Node value) const {
  std::vector<Entry> changed = entries();
  for (Entry& entry : changed) {
    if (entry.key != key) continue;
    entry.value = std::move(value);
    return map(std::move(changed), {location(), path()});
  }
  std::string key_location = value.location();
  changed.push_back({std::string(key), std::move(value), std::move(key_location)});
  return map(std::move(changed), {location(), path()});
}

Node Node::moved(Place place) const {
  Data data = data_ ? *data_ : Data{};
  data.place = std::move(place);
  return Node(std::move(data));
}

const std::string& Node::location() const {
  static const std::string kNowhere;
  return data_ ? data_->place.location : kNowhere;
}

const std::string& Node::path() const {
  static const std::string kRoot;
  return data_ ? data_->place.path : kRoot;
}

ConfigError Node::error(std::string_view message) const {
  std::string text;
  for (const std::string& part : {location(), path()}) {
    if (!part.empty()) text += part + ": ";
  }
  return ConfigError(text.append(message));
}

std::string Node::describe() const {
  if (is_null()) return "nothing";
  if (is_sequence()) return "a list";
  if (is_map()) return "a map";
  return (data_->quoted ? "the string " : "") + in_quotes(data_->text);
}

std::pair<std::string, Node> tagged(const Node& node) {
  if (node.is_scalar()) return {node.text(), Node::null({node.location(), child_path(node.path(), node.text())})};
  const std::string expected = "expected a name, or a map of one name to its options, found ";
  if (!node.is_map()) throw node.error(expected + node.describe());
  const std::vector<Node::Entry>& entries = node.entries();
  if (entries.size() != 1) {
    throw node.error(fmt::format("{}{} keys{}", expected, entries.size(),
                                 entries.empty() ? "" : fmt::format(" ({})", join(node.keys()))));
  }
  return {entries[0].key, entries[0].value};
}

}  // namespace qat::config
