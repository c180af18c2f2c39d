// What needs no library of our own; tests/trainers/plugin.sh builds and loads some.
#include "core/registry/plugin.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/files.h"

namespace qat {
namespace {

using testing::EndsWith;
using testing::StartsWith;

std::string refusal(const std::string& path) {
  try {
    load_plugin(path);
  } catch (const FileError& error) {
    return error.what();
  }
  return "no FileError";
}

TEST(Plugin, WhatIsNoLibraryIsRefusedByName) {
  const std::string folder = testing::TempDir();
  EXPECT_EQ(refusal("absent.so"), "absent.so: cannot open: No such file or directory");
  EXPECT_EQ(refusal(folder), folder + ": cannot read: Is a directory");
  const std::string text = folder + "/qat_plugin.so";
  write_file_atomic(text, "model: {name: lenet5}");
  EXPECT_EQ(refusal(text), text + ": cannot load the plug-in: file too short");
  write_file_atomic(text, std::string(10000, 'x'));
  EXPECT_EQ(refusal(text), text + ": cannot load the plug-in: invalid ELF header");
  EXPECT_THAT(refusal(""), EndsWith("No such file or directory"));
  // A bare name is a file here, whatever the system's folders have.
  EXPECT_THAT(refusal("libz.so.1"), EndsWith("No such file or directory"));
}

void refuse(const char*, const char*) { throw Error("added"); }

TEST(Plugin, ALibraryWithoutComponentsIsRefused) {
  // Noted outside of load_plugin(): it belongs to no plug-in.
  static PluginEntry stray(QAT_VERSION, "stray", "", refuse);
  Dl_info info;
  ASSERT_NE(dladdr(reinterpret_cast<void*>(&load_plugin), &info), 0);
  const std::string cut = testing::TempDir() + "/qat_plugin_cut.so", bytes = read_file(info.dli_fname);
  for (const size_t size : {size_t{5000}, bytes.size() - 1}) {
    write_file_atomic(cut, bytes.substr(0, size));
    EXPECT_EQ(refusal(cut), cut + ": cannot load the plug-in: the file is truncated");
  }
  EXPECT_THAT(refusal(info.dli_fname), StartsWith(std::string(info.dli_fname) + ": the plug-in registers nothing: "));
}

}  // namespace
}  // namespace qat
