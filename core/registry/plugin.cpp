#include "core/registry/plugin.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include "core/base/files.h"

namespace qat {
namespace {

/// The entries of the library that is being loaded, in the order of their constructors.
constinit const PluginEntry* first_entry = nullptr;
constinit const PluginEntry** end_of_entries = &first_entry;

/// The loader of a truncated library dies of a bus error. The section headers stand at the end of a file.
bool is_truncated(const std::string& bytes) {
  ElfW(Ehdr) header;
  if (bytes.size() < sizeof header) return false;  // dlopen() says so
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return false;
  const uint64_t table = uint64_t{header.e_shentsize} * header.e_shnum;
  return header.e_shoff > bytes.size() || table > bytes.size() - header.e_shoff;
}

void* open_library(const std::string& path) {
  QAT_CHECK_AS(FileError, !is_truncated(read_file(path)), "{}: cannot load the plug-in: the file is truncated", path);
  // A path with a slash: dlopen() looks for a bare name in the system's folders.
  const std::string file = std::filesystem::absolute(path).string();
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle != nullptr) return handle;
  std::string_view reason = dlerror();
  if (reason.starts_with(file + ": ")) reason.remove_prefix(file.size() + 2);
  const bool unresolved = reason.find("undefined symbol") != std::string_view::npos;
  throw FileError(fmt::format("{}: cannot load the plug-in: {}{}", path, reason,
                              unresolved ? "; build it again against this qat " QAT_VERSION : ""));
}

}  // namespace

PluginEntry::PluginEntry(const char* version, const char* name, const char* description, Add add) noexcept
    : version_(version), name_(name), description_(description), add_(add) {
  *std::exchange(end_of_entries, &next_) = this;
}

void load_plugin(const std::string& path) {
  static std::set<void*> loaded;
  first_entry = nullptr;
  end_of_entries = &first_entry;
  void* library = open_library(path);
  if (loaded.contains(library)) return;
  QAT_CHECK_AS(FileError, first_entry != nullptr,
               "{}: the plug-in registers nothing: expected QAT_REGISTER_MODEL or QAT_REGISTER_QUANTIZER in it", path);
  for (const PluginEntry* entry = first_entry; entry != nullptr; entry = entry->next_) {
    QAT_CHECK_AS(FileError, std::string_view(entry->version_) == QAT_VERSION,
                 "{}: the plug-in was built against qat {}, this is qat {}: build it again", path, entry->version_,
                 QAT_VERSION);
    try {
      entry->add_(entry->name_, entry->description_);
    } catch (const std::exception& error) {
      throw FileError(fmt::format("{}: {}", path, error.what()));
    }
  }
  loaded.insert(library);
}

}  // namespace qat
