// Named factories with explicit built-in lists. No registrars run before main: a linker may drop those of a static
// library, and their order is undefined. A family of components defines one function, and lists its own in it:
//
//   using ModelFactory = std::function<std::shared_ptr<Model>(const config::Node& options)>;
//   Registry<ModelFactory>& models() {
//     static Registry<ModelFactory> registry = [] {
//       Registry<ModelFactory> r("model");
//       r.add("lenet5", "LeNet-5 with batch norm", make_lenet5);
//       return r;
//     }();
//     return registry;
//   }
//
// Plug-ins add to them through plugin.h. Adding is not thread-safe; reading is.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"

namespace qat {

template <class Factory>
class Registry {
 public:
  /// `kind` is the noun of the error messages: "model".
  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  /// Throws Error when the name is empty or taken.
  void add(const std::string& name, std::string description, Factory factory) {
    QAT_CHECK(!name.empty(), "cannot register a {} without a name", kind_);
    const bool added = entries_.try_emplace(name, Item{std::move(description), std::move(factory)}).second;
    QAT_CHECK(added, "cannot register {} '{}' twice", kind_, name);
  }

  bool contains(const std::string& name) const { return entries_.count(name) != 0; }

  /// Throws Error "unknown model 'lenet' (did you mean 'lenet5'?); known: lenet5, resnet20".
  const Factory& get(const std::string& name) const { return item(name).factory; }
  const std::string& description(const std::string& name) const { return item(name).description; }

  /// The same for a name that stands in a config: throws where.error(message), which carries its position.
  template <class Where>
  const Factory& get(const std::string& name, const Where& where) const {
    if (!contains(name)) throw where.error(unknown(name));
    return get(name);
  }

  /// In alphabetical order.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, item] : entries_) names.push_back(name);
    return names;
  }

  const std::string& kind() const { return kind_; }

 private:
  struct Item {
    std::string description;
    Factory factory;
  };

  const Item& item(const std::string& name) const {
    const auto found = entries_.find(name);
    QAT_CHECK(found != entries_.end(), "{}", unknown(name));
    return found->second;
  }

  std::string unknown(const std::string& name) const {
    const std::vector<std::string> known = names();
    return fmt::format("unknown {} {}{}; known: {}", kind_, in_quotes(name), did_you_mean(name, known), join(known));
  }

  std::string kind_;
  std::map<std::string, Item> entries_;
};

}  // namespace qat
