// YAML -> typed structs. One field table per struct drives parsing, bounds, dump and the docs table:
//
//   struct Sgd { double lr = 0.1; bool nesterov = false; };
//   template <> struct qat::config::Schema<Sgd> {
//     static void describe(qat::config::Fields<Sgd>& f) {
//       f.field("lr", &Sgd::lr).doc("learning rate").minimum(0.0);
//       f.field("nesterov", &Sgd::nesterov).doc("Nesterov's momentum");
//     }
//   };
//   Sgd sgd = parse<Sgd>(load_file("sgd.yaml", {"lr=0.2"}).root());
//
// Field types: bool, int, int64_t, double (finite), std::string, Node (a raw subtree, for options whose struct depends
// on a name), structs with a Schema, and OneOrMore, std::optional, std::vector, std::map<std::string, ...> of these.
// Defaults are the member initializers. Unknown keys, wrong types and values out of bounds are ConfigErrors that start
// with "file:line:column: key.path: ".
#pragma once

#include <concepts>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/config/node.h"

namespace qat::config {

/// A value or a list: `size: 32` is the list of one, `size: [24, 32]` the list of two.
template <class T>
struct OneOrMore {
  std::vector<T> values;
};

/// Specialize with `static void describe(Fields<T>&)`.
template <class T>
struct Schema;

/// One row of a table. Bounds and choices apply to the value, or to every value inside an optional, list or map.
class Field {
 public:
  explicit Field(std::string key) : key_(std::move(key)) {}

  Field& doc(std::string text);
  Field& minimum(double bound);  // value >= bound
  Field& maximum(double bound);  // value <= bound
  Field& above(double bound);    // value > bound
  Field& below(double bound);    // value < bound
  Field& one_of(std::vector<std::string> choices);
  /// The key must be present.
  Field& required();

  const std::string& key() const { return key_; }
  const std::string& doc() const { return doc_; }
  bool is_required() const { return required_; }
  const std::vector<std::string>& choices() const { return choices_; }
  /// ">= 0, < 1", or "one of: a, b", or "".
  std::string bounds() const;
  bool admits(double value) const;

 private:
  std::string key_;
  std::string doc_;
  std::optional<double> minimum_, maximum_, above_, below_;
  std::vector<std::string> choices_;
  bool required_ = false;
};

/// One row of the reference: nested keys are written a.b, a[].b and a.<name>.b.
struct DocRow {
  std::string key, type, default_value, bounds, doc;
};

template <class T>
class Fields;

namespace detail {

bool decode_bool(const Node& node);
int64_t decode_integer(const Node& node, const Field& field, int64_t lowest, int64_t highest);
double decode_double(const Node& node, const Field& field);
std::string decode_string(const Node& node, const Field& field);
Node encode_integer(int64_t value);
Node encode_double(double value);
Node encode_string(const std::string& value);
[[noreturn]] void unknown_key(const Node& map, const Node::Entry& entry, const std::vector<std::string>& valid);
[[noreturn]] void missing_key(const Node& map, const std::string& key);
void require_map(const Node& node, const std::vector<std::string>& valid);
void require_list(const Node& node);
std::string docs_table(const std::vector<DocRow>& rows);

template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <class T>
inline constexpr bool kIsVector = false;
template <class T>
inline constexpr bool kIsVector<std::vector<T>> = true;
template <class T>
inline constexpr bool kIsMap = false;
template <class T>
inline constexpr bool kIsMap<std::map<std::string, T>> = true;
template <class T>
inline constexpr bool kIsOneOrMore = false;
template <class T>
inline constexpr bool kIsOneOrMore<OneOrMore<T>> = true;
template <class T>
concept Described = requires(Fields<T>& fields) {
  Schema<T>::describe(fields);
};
template <class T>
concept Integer = std::same_as<T, int> || std::same_as<T, int64_t>;

/// The table of T, made on first use.
template <class T>
const Fields<T>& fields_of() {
  static const Fields<T> fields = [] {
    Fields<T> made;
    Schema<T>::describe(made);
    return made;
  }();
  return fields;
}

template <class T>
void decode(T& value, const Node& node, const Field& field) {
  if constexpr (std::same_as<T, Node>) {
    value = node;
  } else if constexpr (std::same_as<T, bool>) {
    value = decode_bool(node);
  } else if constexpr (Integer<T>) {
    using Limits = std::numeric_limits<T>;
    value = static_cast<T>(decode_integer(node, field, Limits::min(), Limits::max()));
  } else if constexpr (std::same_as<T, double>) {
    value = decode_double(node, field);
  } else if constexpr (std::same_as<T, std::string>) {
    value = decode_string(node, field);
  } else if constexpr (kIsOptional<T>) {
    value.reset();
    if (!node.is_null()) decode(value.emplace(), node, field);
  } else if constexpr (kIsOneOrMore<T>) {
    decode(value.values, node.is_sequence() ? node : Node::sequence({node}), field);
  } else if constexpr (kIsVector<T>) {
    require_list(node);
    value.clear();
    for (const Node& item : node.items()) {
      typename T::value_type element{};
      decode(element, item, field);
      value.push_back(std::move(element));
    }
  } else if constexpr (kIsMap<T>) {
    require_map(node, {});
    value.clear();
    for (const Node::Entry& entry : node.entries()) decode(value[entry.key], entry.value, field);
  } else {
    static_assert(Described<T>, "a config field needs one of the field types, or a Schema");
    fields_of<T>().parse(value, node);
  }
}

template <class T>
Node encode(const T& value) {
  if constexpr (std::same_as<T, Node>) {
    return value;
  } else if constexpr (std::same_as<T, bool>) {
    return Node::scalar(value ? "true" : "false");
  } else if constexpr (Integer<T>) {
    return encode_integer(value);
  } else if constexpr (std::same_as<T, double>) {
    return encode_double(value);
  } else if constexpr (std::same_as<T, std::string>) {
    return encode_string(value);
  } else if constexpr (kIsOptional<T>) {
    return value ? encode(*value) : Node();
  } else if constexpr (kIsOneOrMore<T>) {
    return value.values.size() == 1 ? encode(value.values.front()) : encode(value.values);
  } else if constexpr (kIsVector<T>) {
    std::vector<Node> items;
    for (const typename T::value_type& item : value) items.push_back(encode<typename T::value_type>(item));
    return Node::sequence(std::move(items));
  } else if constexpr (kIsMap<T>) {
    std::vector<Node::Entry> entries;
    for (const auto& [key, item] : value) entries.push_back({key, encode(item)});
    return Node::map(std::move(entries));
  } else {
    return fields_of<T>().encode(value);
  }
}

template <class T>
std::string type_name() {
  if constexpr (std::same_as<T, Node>) {
    return "any";
  } else if constexpr (std::same_as<T, bool>) {
    return "bool";
  } else if constexpr (Integer<T>) {
    return "integer";
  } else if constexpr (std::same_as<T, double>) {
    return "number";
  } else if constexpr (std::same_as<T, std::string>) {
    return "string";
  } else if constexpr (kIsOptional<T>) {
    return type_name<typename T::value_type>() + " or null";
  } else if constexpr (kIsOneOrMore<T>) {
    using Values = decltype(T::values);
    return type_name<typename Values::value_type>() + " or " + type_name<Values>();
  } else if constexpr (kIsVector<T>) {
    return "list of " + type_name<typename T::value_type>();
  } else if constexpr (kIsMap<T>) {
    return "map of " + type_name<typename T::mapped_type>();
  } else {
    return "map";
  }
}

/// Adds the rows of structs inside T; `value` holds the defaults.
template <class T>
void nested_docs(std::vector<DocRow>& rows, const std::string& prefix, const T& value) {
  if constexpr (kIsOptional<T>) {
    nested_docs(rows, prefix, value.value_or(typename T::value_type{}));
  } else if constexpr (kIsVector<T>) {
    nested_docs(rows, prefix + "[]", typename T::value_type{});
  } else if constexpr (kIsMap<T>) {
    nested_docs(rows, prefix + ".<name>", typename T::mapped_type{});
  } else if constexpr (Described<T>) {
    fields_of<T>().add_docs(rows, prefix.empty() ? prefix : prefix + ".", value);
  }
}

}  // namespace detail

/// The field table of T.
template <class T>
class Fields {
 public:
  template <class M>
  Field& field(std::string key, M T::*member) {
    Row& row = rows_.emplace_back(Row{Field(std::move(key)), {}, {}, {}, {}});
    row.decode = [member](T& value, const Node& node, const Field& field) {
      detail::decode(value.*member, node, field);
    };
    row.encode = [member](const T& value) { return detail::encode<M>(value.*member); };
    row.absent = [member](T& value, const Node& map, const Field& field) {
      // A struct that is not written still has its required keys and checks; a raw subtree still has a place.
      const Place place{map.location(), child_path(map.path(), field.key())};
      if constexpr (std::same_as<M, Node>) {
        if ((value.*member).location().empty()) value.*member = (value.*member).moved(place);
      } else if constexpr (detail::Described<M>) {
        detail::decode(value.*member, Node::null(place), field);
      }
    };
    row.docs = [member](std::vector<DocRow>& rows, const std::string& prefix, const T& value, const Field& field) {
      const bool nested = detail::Described<M>;
      std::string shown = nested ? "" : detail::encode<M>(value.*member).inline_yaml();
      if (field.is_required()) shown = "required";
      rows.push_back({prefix + field.key(), detail::type_name<M>(), shown, field.bounds(), field.doc()});
      detail::nested_docs<M>(rows, prefix + field.key(), value.*member);
    };
    return row.field;
  }

  /// A rule over several fields: returns what is wrong, or "".
  void check(std::function<std::string(const T&)> rule) { checks_.push_back(std::move(rule)); }

  /// Overwrites the fields that the map names; null is an empty map.
  void parse(T& value, const Node& node) const {
    const std::vector<std::string> valid = keys();
    detail::require_map(node, valid);
    for (const Node::Entry& entry : node.entries()) {
      const Row* row = find(entry.key);
      if (row == nullptr) detail::unknown_key(node, entry, valid);
      row->decode(value, entry.value, row->field);
    }
    for (const Row& row : rows_) {
      if (node.find(row.field.key())) continue;
      if (row.field.is_required()) detail::missing_key(node, row.field.key());
      row.absent(value, node, row.field);
    }
    for (const auto& rule : checks_) {
      const std::string complaint = rule(value);
      if (!complaint.empty()) throw node.error(complaint);
    }
  }

  Node encode(const T& value) const {
    std::vector<Node::Entry> entries;
    for (const Row& row : rows_) entries.push_back({row.field.key(), row.encode(value)});
    return Node::map(std::move(entries));
  }

  void add_docs(std::vector<DocRow>& rows, const std::string& prefix, const T& value) const {
    for (const Row& row : rows_) row.docs(rows, prefix, value, row.field);
  }

  std::vector<std::string> keys() const {
    std::vector<std::string> keys;
    for (const Row& row : rows_) keys.push_back(row.field.key());
    return keys;
  }

 private:
  struct Row {
    Field field;
    std::function<void(T&, const Node&, const Field&)> decode;
    std::function<Node(const T&)> encode;
    std::function<void(T&, const Node&, const Field&)> absent;
    std::function<void(std::vector<DocRow>&, const std::string&, const T&, const Field&)> docs;
  };

  const Row* find(const std::string& key) const {
    for (const Row& row : rows_) {
      if (row.field.key() == key) return &row;
    }
    return nullptr;
  }

  std::deque<Row> rows_;  // field() hands out references
  std::vector<std::function<std::string(const T&)>> checks_;
};

/// The struct of a subtree; keys that are absent keep T's defaults.
template <class T>
T parse(const Node& node) {
  T value{};
  detail::decode(value, node, Field(""));
  return value;
}

/// Every field of the struct, resolved, as a subtree; parse<T>(to_node(s)) gives s again, doubles to the bit. Throws
/// Error for a double that is not finite.
template <class T>
Node to_node(const T& value) {
  return detail::encode<T>(value);
}

/// The same as YAML text.
template <class T>
std::string dump(const T& value) {
  return to_node(value).yaml();
}

/// A Markdown table: key, type, default, bounds, meaning.
template <class T>
std::string docs() {
  std::vector<DocRow> rows;
  detail::fields_of<T>().add_docs(rows, "", T{});
  return detail::docs_table(rows);
}

template <class T>
T Node::as() const {
  return parse<T>(*this);
}

}  // namespace qat::config
