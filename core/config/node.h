// A YAML subtree that knows where it came from. Immutable and cheap to copy; yaml-cpp stays inside the .cpp files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace qat::config {

/// Where a node stands: `location` is "file:line:column" (from 1) or "--set a.b=1", `path` is "stages[0].float.lr".
struct Place {
  std::string location;
  std::string path;
};

/// The path of the entry `key`, or of the item `index`, of the node at `path`.
std::string child_path(const std::string& path, const std::string& key);
std::string child_path(const std::string& path, size_t index);

class Node {
 public:
  struct Entry;

  /// Null, from nowhere.
  Node() = default;
  static Node null(Place place = {});
  /// `quoted` text is a string whatever it looks like; otherwise "8" is also a number and "true" also a bool.
  static Node scalar(std::string text, bool quoted = false, Place place = {});
  static Node sequence(std::vector<Node> items, Place place = {});
  /// Throws Error for a key that is there twice.
  static Node map(std::vector<Entry> entries, Place place = {});

  bool is_null() const;
  bool is_scalar() const;
  bool is_sequence() const;
  bool is_map() const;

  /// The text of a scalar, and whether it stood in quotes. Throws ConfigError for other kinds.
  const std::string& text() const;
  bool is_quoted() const;

  /// The items of a sequence in order. Throws ConfigError for other kinds.
  const std::vector<Node>& items() const;

  /// The entries of a map in the file's order; none for null. Throws ConfigError for other kinds.
  const std::vector<Entry>& entries() const;
  std::vector<std::string> keys() const;
  std::optional<Node> find(std::string_view key) const;
  /// Throws ConfigError with the nearest key when there is none.
  const Node& at(std::string_view key) const;

  /// The map without `key` (the same when it is not there), or with `key` replaced or appended.
  Node without(std::string_view key) const;
  Node with(std::string_view key, Node value) const;
  /// The same content at another place (children keep theirs).
  Node moved(Place place) const;

  /// The value as a field type or a struct with a Schema (core/config/config.h).
  template <class T>
  T as() const;

  const std::string& location() const;
  const std::string& path() const;
  /// The exception for a mistake here: "location: path: message"; empty parts are left out.
  ConfigError error(std::string_view message) const;
  /// "nothing", "'text'", "a list" or "a map", for messages.
  std::string describe() const;

  /// YAML that loads as the same tree: block style ending in a newline, or on one line.
  std::string yaml() const;
  std::string inline_yaml() const;

 private:
  struct Data;
  explicit Node(Data data);
  std::shared_ptr<const Data> data_;
};

struct Node::Entry {
  std::string key;
  Node value;
  std::string key_location = {};
};

/// `- calibrate` gives {"calibrate", null}; `- {float: {...}}` gives {"float", the options}. Throws ConfigError for
/// anything else.
std::pair<std::string, Node> tagged(const Node& node);

/// A loaded YAML file.
class Document {
 public:
  Document(std::string name, Node root) : name_(std::move(name)), root_(std::move(root)) {}
  const std::string& name() const { return name_; }
  /// Null for an empty file.
  const Node& root() const { return root_; }

 private:
  std::string name_;
  Node root_;
};

inline constexpr size_t kMaxYamlBytes = size_t{1} << 20;
inline constexpr int kMaxYamlDepth = 64;

/// Reads YAML and applies overrides "a.b[0].c=value" (also a.b.0.c) in order, before any typed parsing; missing maps on
/// the way are created. Duplicate keys, aliases, tags, several documents, more than kMaxYamlBytes or kMaxYamlDepth are
/// refused. Throws ConfigError "file:line:column: ...", or FileError when the file cannot be read.
Document load_file(const std::string& path, const std::vector<std::string>& overrides = {});
Document load_text(std::string_view text, const std::string& name, const std::vector<std::string>& overrides = {});

}  // namespace qat::config
