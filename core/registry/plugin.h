// Plug-ins: shared libraries that add components to the registries of a running program.
//
//   QAT_REGISTER_MODEL("tiny", "two layers", TinyNet)                  // models/plugin.h
//   QAT_REGISTER_QUANTIZER("rounded", "my method", RoundedQuantizer)   // core/quant/plugin.h
//
// While a library is loaded its macros only note what there is, so that nothing can throw there. load_plugin() then
// adds it to the registries, where a mistake is an error message. Lists of built-in components need none of this.
#pragma once

#include <string>

#include "core/base/version.h"

#ifndef NDEBUG
#error "plug-ins need -DNDEBUG: it changes the layout of LibTorch's classes (see CONTRIBUTING.md)"
#endif

namespace qat {

/// One component of a plug-in, in the plug-in's static memory.
class PluginEntry {
 public:
  using Add = void (*)(const char* name, const char* description);

  /// `version` is that of the headers which the plug-in was compiled with; `add` puts the component into its registry.
  PluginEntry(const char* version, const char* name, const char* description, Add add) noexcept;

 private:
  friend void load_plugin(const std::string& path);
  const char* version_;  // stays the first member: it is read before the others are trusted
  const char* name_;
  const char* description_;
  Add add_;
  const PluginEntry* next_ = nullptr;
};

/// Loads a shared library and adds what it registers; a library that is loaded already stays as it is. Native code
/// runs: only the command line names plug-ins, never a config or a checkpoint.
///
/// Throws FileError, each time naming the path: no such file, not a shared library of this system, symbols that qat
/// does not have, another version of qat (with both versions), nothing registered, a name that is taken.
void load_plugin(const std::string& path);

}  // namespace qat

/// Notes one component; `add` is a PluginEntry::Add. The version is a literal of the plug-in's own: a variable or an
/// inline function would be merged with the program's.
#define QAT_PLUGIN_ENTRY(name, description, add) QAT_PLUGIN_ENTRY_LINE(name, description, add, __COUNTER__)
#define QAT_PLUGIN_ENTRY_LINE(name, description, add, number) QAT_PLUGIN_ENTRY_NUMBER(name, description, add, number)
#define QAT_PLUGIN_ENTRY_NUMBER(name, description, add, number) \
  static ::qat::PluginEntry qat_plugin_entry_##number(QAT_VERSION, name, description, add);
