// What load.cpp and override.cpp share.
#pragma once

#include <string>
#include <string_view>

#include "core/config/node.h"

namespace qat::config {

/// Reads YAML whose nodes all stand at `place.location`, the root at `place.path`.
Node load_fragment(std::string_view text, const Place& place);

/// The tree after "a.b[0].c=value". Throws ConfigError "--set a.b[0].c=value: path: ...".
Node apply_override(const Node& root, const std::string& assignment);

}  // namespace qat::config
