// The version of the program that is running.
#pragma once

#include <string>

namespace qat {

/// "0.1.0 (git 1a2b3c4)"; parts that the build did not know are "unknown".
std::string version_string();

}  // namespace qat
