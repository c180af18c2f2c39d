// The version of the program that is running. CMakeLists.txt reads it here.
#pragma once

#include <string>

/// A macro, so that a plug-in keeps the version that it was compiled with.
#define QAT_VERSION "0.1.0"

namespace qat {

/// "0.1.0 (git 1a2b3c4)"; the revision is "unknown" to a build without git.
std::string version_string();

}  // namespace qat
