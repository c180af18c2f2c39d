#include <algorithm>
#include <charconv>

#include "core/base/text.h"
#include "core/config/loading.h"

namespace qat::config {
namespace {

struct Segment {
  std::string text;
  bool bracketed;  // [0]: an index for sure; a bare 0 is an index in a list and a key in a map
};

struct Override {
  std::string location;
  std::vector<Segment> segments;
  std::string value;
};

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

Override read_override(const std::string& assignment) {
  Override result{"--set " + one_line(assignment), {}, {}};
  const auto malformed = [&] { return ConfigError(result.location + ": expected key.path=value"); };
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos) throw malformed();
  result.value = assignment.substr(equals + 1);
  const std::string path = assignment.substr(0, equals) + ".";
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = path.find('.', begin);
    std::string part = path.substr(begin, end - begin);
    begin = end + 1;
    std::vector<Segment> indices;
    while (!part.empty() && part.back() == ']') {
      const size_t bracket = part.rfind('[');
      if (bracket == std::string::npos) throw malformed();
      const std::string index = part.substr(bracket + 1, part.size() - bracket - 2);
      if (!is_number(index)) throw malformed();
      indices.insert(indices.begin(), {index, true});
      part.resize(bracket);
    }
    // Only a path that starts at a list may begin with an index.
    if (part.empty() && (indices.empty() || !result.segments.empty())) throw malformed();
    if (!part.empty()) result.segments.push_back({part, false});
    result.segments.insert(result.segments.end(), indices.begin(), indices.end());
  }
  return result;
}

Node apply(const Node& node, const Override& change, size_t depth, const std::string& path) {
  if (depth == change.segments.size()) return load_fragment(change.value, {change.location, path});
  if (depth >= kMaxYamlDepth) throw ConfigError(fmt::format("{}: too many keys", change.location));
  const Segment& segment = change.segments[depth];
  const Place here{change.location, path};
  if (node.is_sequence()) {
    std::vector<Node> items = node.items();
    const size_t index = is_number(segment.text) ? std::stoul(segment.text) : items.size();
    if (index >= items.size()) {
      throw Node::null(here).error(
          fmt::format("expected an index below {}, found {}", items.size(), in_quotes(segment.text)));
    }
    items[index] = apply(items[index], change, depth + 1, child_path(path, index));
    return Node::sequence(std::move(items), {node.location(), node.path()});
  }
  if (node.is_scalar() || segment.bracketed) {
    throw Node::null(here).error(
        fmt::format("expected a {} here, found {}", segment.bracketed ? "list" : "map", node.describe()));
  }
  Node value = apply(node.find(segment.text).value_or(Node()), change, depth + 1, child_path(path, segment.text));
  return (node.is_null() ? node.moved(here) : node).with(segment.text, std::move(value));
}

}  // namespace

Node apply_override(const Node& root, const std::string& assignment) {
  return apply(root, read_override(assignment), 0, "");
}

}  // namespace qat::config
