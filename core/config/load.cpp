// YAML text -> Node, by yaml-cpp's event interface: its own tree keeps only the first of duplicate keys and expands
// aliases.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <map>
#include <sstream>

#include "core/base/files.h"
#include "core/base/text.h"
#include "core/config/loading.h"

namespace qat::config {
namespace {

/// Where a fragment's nodes stand: in a file at a mark, or all in one override.
struct Source {
  std::string name;
  bool is_file;
  std::string at(const YAML::Mark& mark) const {
    return is_file ? fmt::format("{}:{}:{}", name, mark.line + 1, mark.column + 1) : name;
  }
};

class Builder : public YAML::EventHandler {
 public:
  Builder(const Source& source, std::string path) : source_(source), root_path_(std::move(path)) {}

  Node root() const { return root_; }
  bool has_document() const { return has_document_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (has_document_) fail(mark, "a second document: expected one");
    has_document_ = true;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse_as_key(mark);
    Place here = place(mark);
    // The mark of a value that is left out is that of whatever comes next.
    if (!stack_.empty() && stack_.back().is_map) here.location = stack_.back().key_location;
    add(Node::null(std::move(here)));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(mark, "YAML aliases (*name) are not supported: write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& text) override {
    const bool quoted = tag == "!";
    if (!quoted) refuse_tag(mark, tag);
    if (!expects_key()) return add(Node::scalar(text, quoted, place(mark)));
    Frame& map = stack_.back();
    if (text.empty()) fail(mark, "an empty key");
    const auto [earlier, is_new] = map.seen.try_emplace(text, source_.at(mark));
    if (!is_new) {
      const std::string path = child_path(map.place.path, text);
      throw ConfigError(fmt::format("{}: {}: duplicate key, first at {}", source_.at(mark), path, earlier->second));
    }
    map.key = text;
    map.key_location = source_.at(mark);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, false);
  }
  void OnSequenceEnd() override {
    Frame frame = close();
    add(Node::sequence(std::move(frame.items), std::move(frame.place)));
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, tag, true);
  }
  void OnMapEnd() override {
    Frame frame = close();
    add(Node::map(std::move(frame.entries), std::move(frame.place)));
  }

 private:
  struct Frame {
    bool is_map;
    Place place;
    std::vector<Node> items;
    std::vector<Node::Entry> entries;
    std::map<std::string, std::string> seen;  // key -> where
    std::optional<std::string> key;           // waits for its value
    std::string key_location;
  };

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& message) const {
    throw ConfigError(source_.at(mark) + ": " + message);
  }
  bool expects_key() const { return !stack_.empty() && stack_.back().is_map && !stack_.back().key; }
  void refuse_as_key(const YAML::Mark& mark) const {
    if (expects_key()) fail(mark, "a key that is not plain text, or a bracket that is not closed");
  }
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?") fail(mark, "YAML tags (" + one_line(tag) + ") are not supported");
  }
  Place place(const YAML::Mark& mark) const {
    if (stack_.empty()) return {source_.at(mark), root_path_};
    const Frame& frame = stack_.back();
    const std::string& parent = frame.place.path;
    return {source_.at(mark), frame.is_map ? child_path(parent, *frame.key) : child_path(parent, frame.items.size())};
  }
  void open(const YAML::Mark& mark, const std::string& tag, bool is_map) {
    refuse_as_key(mark);
    refuse_tag(mark, tag);
    if (stack_.size() >= kMaxYamlDepth) fail(mark, fmt::format("nested deeper than {} levels", kMaxYamlDepth));
    stack_.push_back({is_map, place(mark), {}, {}, {}, {}, {}});
  }
  Frame close() {
    Frame frame = std::move(stack_.back());
    stack_.pop_back();
    return frame;
  }
  void add(Node node) {
    if (stack_.empty()) {
      root_ = std::move(node);
    } else if (Frame& frame = stack_.back(); frame.is_map) {
      frame.entries.push_back({std::move(*frame.key), std::move(node), std::move(frame.key_location)});
      frame.key.reset();
    } else {
      frame.items.push_back(std::move(node));
    }
  }

  const Source& source_;
  std::string root_path_;
  Node root_;
  bool has_document_ = false;
  std::vector<Frame> stack_;
};

/// The number of bytes of the UTF-8 character at `i`, or 0 when there is none.
size_t utf8_length(std::string_view text, size_t i) {
  const auto lead = static_cast<unsigned char>(text[i]);
  const size_t length = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
  if (length == 0 || i + length > text.size()) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return 0;
  }
  return length;
}

/// yaml-cpp takes byte 4 for the end of the file and guesses UTF-16 from zeros: only plain UTF-8 text goes in.
void check_characters(std::string_view text, const Source& source) {
  YAML::Mark mark;
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text, i);
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool control = (byte < 0x20 && byte != '\n' && byte != '\t' && byte != '\r') || byte == 0x7f;
    if (length == 0 || control) {
      throw ConfigError(fmt::format("{}: byte 0x{:02x}: expected UTF-8 text", source.at(mark), byte));
    }
    mark.line += byte == '\n';
    mark.column = byte == '\n' ? 0 : mark.column + 1;
    i += length;
  }
}

Node load(std::string_view text, const Source& source, const std::string& path) {
  if (text.size() > kMaxYamlBytes) {
    throw ConfigError(fmt::format("{}: {} bytes, expected at most {}", source.name, text.size(), kMaxYamlBytes));
  }
  check_characters(text, source);
  // yaml-cpp takes the end of the file after a newline for a closing quote; in a comment's place it does not.
  std::istringstream stream(std::string(text) + (text.ends_with('\n') ? "#" : "\n#"));
  Builder builder(source, path);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& exception) {
    const YAML::Mark mark = exception.mark.is_null() ? YAML::Mark() : exception.mark;
    throw ConfigError(fmt::format("{}: not valid YAML: {}", source.at(mark), exception.msg));
  }
  return builder.has_document() ? builder.root() : Node::null({source.at(YAML::Mark()), path});
}

}  // namespace

Node load_fragment(std::string_view text, const Place& place) {
  return load(text, {place.location, false}, place.path);
}

Document load_text(std::string_view text, const std::string& name, const std::vector<std::string>& overrides) {
  Node root = load(text, {name, true}, "");
  for (const std::string& assignment : overrides) root = apply_override(root, assignment);
  return Document(name, std::move(root));
}

Document load_file(const std::string& path, const std::vector<std::string>& overrides) {
  return load_text(read_file(path, kMaxYamlBytes), path, overrides);
}

}  // namespace qat::config
