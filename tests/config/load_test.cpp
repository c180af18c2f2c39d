#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/base/files.h"
#include "core/config/config.h"

namespace qat::config {
namespace {

Node load(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return load_text(text, "f", overrides).root();
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no ConfigError";
}

std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return message_of([&] { load(text, overrides); });
}

TEST(Load, KeepsOrderPathsAndPositions) {
  const Node root = load("b: 1\na:\n  - x\n  - {k: 'y z'}\n");
  EXPECT_THAT(root.keys(), testing::ElementsAre("b", "a"));
  const Node item = root.at("a").items().at(1);
  EXPECT_EQ(item.path(), "a[1]");
  EXPECT_EQ(item.location(), "f:4:5");
  EXPECT_EQ(item.at("k").path(), "a[1].k");
  EXPECT_EQ(item.at("k").location(), "f:4:9");
  EXPECT_EQ(item.at("k").text(), "y z");
  EXPECT_TRUE(item.at("k").is_quoted());
  EXPECT_FALSE(root.at("b").is_quoted());
  EXPECT_EQ(root.location(), "f:1:1");
  EXPECT_EQ(root.path(), "");
}

TEST(Load, KnowsNull) {
  const Node root = load("a:\nb: ~\nc: null\nd: 'null'\ne: []\nf: {}\n");
  EXPECT_TRUE(root.at("a").is_null());
  EXPECT_TRUE(root.at("b").is_null());
  EXPECT_TRUE(root.at("c").is_null());
  EXPECT_TRUE(root.at("d").is_scalar());
  EXPECT_TRUE(root.at("e").is_sequence());
  EXPECT_TRUE(root.at("f").is_map());
}

TEST(Load, KeepsBlockTexts) {
  EXPECT_EQ(load("a: |\n  x\n  y\n").at("a").text(), "x\ny\n");
  EXPECT_EQ(load("a: |-\n  x\n").at("a").text(), "x");
  EXPECT_EQ(load("a: >\n  x\n  y\n").at("a").text(), "x y\n");
}

TEST(Load, EmptyFilesAreNull) {
  for (const char* text : {"", "\n\n", "# only a comment\n", "---\n", "---\n...\n"}) {
    EXPECT_TRUE(load(text).is_null()) << text;
    EXPECT_EQ(load(text).path(), "");
  }
  EXPECT_EQ(load("").location(), "f:1:1");
}

TEST(Load, ReadsAFile) {
  const std::string path = testing::TempDir() + "qat_load_reads_a_file.yaml";
  write_file_atomic(path, "lr: 0.1\n");
  const Document document = load_file(path, {"lr=0.2"});
  EXPECT_EQ(document.name(), path);
  EXPECT_EQ(document.root().at("lr").text(), "0.2");
  std::filesystem::remove(path);
  EXPECT_THROW(load_file(path), FileError);
}

TEST(Load, DuplicateKeysAreRefused) {
  EXPECT_EQ(refusal("lr: 1\nmomentum: 2\nlr: 3\n"), "f:3:1: lr: duplicate key, first at f:1:1");
  EXPECT_EQ(refusal("a: {b: 1, b: 2}\n"), "f:1:11: a.b: duplicate key, first at f:1:5");
  EXPECT_EQ(refusal("- {'b': 1, b: 2}\n"), "f:1:12: [0].b: duplicate key, first at f:1:4");
}

TEST(Load, MalformedYamlHasAPosition) {
  EXPECT_EQ(refusal("a: [1, 2\nb: 3\n"), "f:2:2: not valid YAML: end of sequence flow not found");
  EXPECT_EQ(refusal("a: 1\n b: 2\n"), "f:2:3: not valid YAML: illegal map value");
  EXPECT_EQ(refusal("a: \"x\n"), "f:2:2: not valid YAML: illegal EOF in scalar");
  EXPECT_EQ(refusal("a: 'x\nb: 2\n"), "f:3:2: not valid YAML: illegal EOF in scalar");
  EXPECT_EQ(refusal("a: 'x"), "f:2:2: not valid YAML: illegal EOF in scalar");
  EXPECT_EQ(refusal("a: [1, 2\n"), "f:2:1: not valid YAML: end of sequence flow not found");
  EXPECT_THAT(refusal("\tb: 1\n"), testing::StartsWith("f:1:"));
}

TEST(Load, RefusesWhatAConfigNeverNeeds) {
  EXPECT_EQ(refusal("a: &x 1\nb: *x\n"), "f:2:4: YAML aliases (*name) are not supported: write the value out");
  EXPECT_EQ(refusal("a: !!int 1\n"), "f:1:4: YAML tags (tag:yaml.org,2002:int) are not supported");
  EXPECT_EQ(refusal("a: !x [1]\n"), "f:1:4: YAML tags (!x) are not supported");
  EXPECT_EQ(refusal("a: 1\n---\nb: 2\n"), "f:2:1: a second document: expected one");
  EXPECT_EQ(refusal("[1]: 2\n"), "f:1:1: a key that is not plain text, or a bracket that is not closed");
  EXPECT_EQ(refusal("~: 2\n"), "f:1:1: a key that is not plain text, or a bracket that is not closed");
  EXPECT_EQ(refusal("'': 2\n"), "f:1:1: an empty key");
}

TEST(Load, RefusesBytesThatAreNoText) {
  EXPECT_EQ(refusal(std::string("a: 1\nb:\0 2", 10)), "f:2:3: byte 0x00: expected UTF-8 text");
  EXPECT_EQ(refusal("a: \x04 2"), "f:1:4: byte 0x04: expected UTF-8 text");
  EXPECT_EQ(refusal("a: \xff"), "f:1:4: byte 0xff: expected UTF-8 text");
  EXPECT_EQ(refusal("a: \xc3"), "f:1:4: byte 0xc3: expected UTF-8 text");
  EXPECT_EQ(load("a: \u00e4\n").at("a").text(), "\u00e4");
}

TEST(Load, SizeAndDepthAreBounded) {
  EXPECT_EQ(refusal(std::string(kMaxYamlBytes + 1, ' ')), "f: 1048577 bytes, expected at most 1048576");
  for (const size_t depth : {65, 100000}) {
    EXPECT_EQ(refusal(std::string(depth, '[') + std::string(depth, ']')), "f:1:65: nested deeper than 64 levels");
  }
  EXPECT_THAT(refusal(std::string(100000, '[')), testing::StartsWith("f:1:"));
  EXPECT_THAT(refusal(std::string(100000, '{')), testing::StartsWith("f:1:"));
  EXPECT_TRUE(load(std::string(64, '[') + std::string(64, ']')).is_sequence());
  std::string maps;
  for (int i = 0; i < 1000; ++i) maps += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_EQ(refusal(maps), "f:65:65: nested deeper than 64 levels");
}

TEST(Load, ManyKeysTakeNoQuadraticTime) {
  std::string text;
  for (int i = 0; i < 60000; ++i) text += fmt::format("k{}: 1\n", i);
  EXPECT_EQ(load(text).keys().size(), 60000u);
}

// Errors or trees, never a crash (the sanitizers watch).
TEST(Load, DamagedTextsNeverCrash) {
  const std::string good = "a: {b: [1, 'two', \"three\"], c: ~}\nd:\n  - &x e\n  - |\n    text\n# end\n? f\n: g\n";
  int refused = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    for (const char damage : std::string("\n\t:{}[]'\"&*!|>#-?,\x80", 20)) {
      std::string bad = good;
      bad[i] = damage;
      refused += refusal(bad) != "no ConfigError";
    }
    refused += refusal(good.substr(0, i)) != "no ConfigError";
  }
  EXPECT_GT(refused, 100);
}

TEST(Override, ReplacesAndAdds) {
  const Node root = load("a: {b: 1}\nl: [{k: 1}, 2]\n", {"a.b=2", "a.c=x", "l[0].k=3", "l.1=4", "new.deep=[5, 6]"});
  EXPECT_EQ(root.inline_yaml(), "{a: {b: 2, c: x}, l: [{k: 3}, 4], new: {deep: [5, 6]}}");
  const Node deep = root.at("new").at("deep");
  EXPECT_EQ(deep.location(), "--set new.deep=[5, 6]");
  EXPECT_EQ(deep.path(), "new.deep");
  EXPECT_EQ(deep.items()[1].path(), "new.deep[1]");
  EXPECT_EQ(root.at("l").items()[0].at("k").path(), "l[0].k");
  EXPECT_EQ(root.at("a").location(), "f:1:4");
}

TEST(Override, LaterOnesWin) {
  EXPECT_EQ(load("a: 1", {"a=2", "a=3"}).at("a").text(), "3");
  EXPECT_EQ(load("", {"a.b=2", "a.c=3"}).inline_yaml(), "{a: {b: 2, c: 3}}");
}

TEST(Override, TakesYamlValues) {
  const Node root = load("", {"n=", "s='a=b'", "m={x: 1}", "e=a=b", "l[0]x=1"});
  EXPECT_TRUE(root.at("n").is_null());
  EXPECT_EQ(root.at("s").text(), "a=b");
  EXPECT_EQ(root.at("m").at("x").path(), "m.x");
  EXPECT_EQ(root.at("e").text(), "a=b");
  EXPECT_EQ(root.at("l[0]x").text(), "1");
}

TEST(Override, LeavesTheFileAlone) {
  const Node root = load("a: {b: 1}\n");
  const Node changed = root.with("a", Node::scalar("2"));
  EXPECT_EQ(root.inline_yaml(), "{a: {b: 1}}");
  EXPECT_EQ(changed.inline_yaml(), "{a: 2}");
}

TEST(Override, MistakesNameTheOverride) {
  const std::string text = "a: {b: 1}\nl: [1, 2]\n";
  EXPECT_EQ(refusal(text, {"a.b"}), "--set a.b: expected key.path=value");
  EXPECT_EQ(refusal(text, {"=1"}), "--set =1: expected key.path=value");
  EXPECT_EQ(refusal(text, {"a..b=1"}), "--set a..b=1: expected key.path=value");
  EXPECT_EQ(refusal(text, {"l[x]=1"}), "--set l[x]=1: expected key.path=value");
  EXPECT_EQ(refusal(text, {"l]=1"}), "--set l]=1: expected key.path=value");
  EXPECT_EQ(refusal(text, {"l[2]=1"}), "--set l[2]=1: l: expected an index below 2, found '2'");
  EXPECT_EQ(refusal(text, {"l.x=1"}), "--set l.x=1: l: expected an index below 2, found 'x'");
  EXPECT_EQ(refusal(text, {"l[99999999999999999999]=1"}), "--set l[99999999999999999999]=1: expected key.path=value");
  EXPECT_EQ(refusal(text, {"a[0]=1"}), "--set a[0]=1: a: expected a list here, found a map");
  EXPECT_EQ(refusal(text, {"a.b.c=1"}), "--set a.b.c=1: a.b: expected a map here, found '1'");
  EXPECT_EQ(refusal(text, {"a.b=[1"}), "--set a.b=[1: a key that is not plain text, or a bracket that is not closed");
  EXPECT_EQ(refusal(text, {"a.b={x: 1, x: 2}"}),
            "--set a.b={x: 1, x: 2}: a.b.x: duplicate key, first at --set a.b={x: 1, x: 2}");
  std::string deep = "a";
  for (int i = 0; i < 10000; ++i) deep += ".a";
  EXPECT_THAT(refusal("", {deep + "=1"}), testing::EndsWith(": too many keys"));
}

TEST(Node, MissingKeysAndWrongKindsNameThePlace) {
  const Node root = load("model: {nmae: x}\nl: [1]\n");
  EXPECT_EQ(message_of([&] { root.at("model").at("name"); }),
            "f:1:8: model: missing key 'name' (did you mean 'nmae'?)");
  EXPECT_EQ(message_of([&] { root.at("l").keys(); }), "f:2:4: l: expected a map, found a list");
  EXPECT_EQ(message_of([&] { root.at("model").items(); }), "f:1:8: model: expected a list, found a map");
  EXPECT_EQ(message_of([&] { root.text(); }), "f:1:1: expected a single value, found a map");
  EXPECT_EQ(message_of([] { throw Node().error("nowhere"); }), "nowhere");
  EXPECT_EQ(message_of([&] { throw root.at("l").items()[0].error("bad"); }), "f:2:5: l[0]: bad");
}

TEST(Node, WithoutStripsAKey) {
  const Node options = load("{name: sgd, lr: 0.1}");
  EXPECT_EQ(options.without("name").inline_yaml(), "{lr: 0.1}");
  EXPECT_EQ(options.without("name").location(), "f:1:1");
  EXPECT_EQ(options.without("none").inline_yaml(), "{name: sgd, lr: 0.1}");
  EXPECT_FALSE(options.find("none").has_value());
  EXPECT_EQ(options.find("lr")->text(), "0.1");
}

TEST(Tagged, TakesANameOrAMapOfOne) {
  const Node root = load("- calibrate\n- {float: {epochs: 1}}\n- {verify: }\n- {a: 1, b: 2}\n- [x]\n- {}\n-\n");
  const auto [bare, none] = tagged(root.items()[0]);
  EXPECT_EQ(bare, "calibrate");
  EXPECT_TRUE(none.is_null());
  EXPECT_EQ(none.path(), "[0].calibrate");
  EXPECT_EQ(none.location(), "f:1:3");
  const auto [name, options] = tagged(root.items()[1]);
  EXPECT_EQ(name, "float");
  EXPECT_EQ(options.at("epochs").path(), "[1].float.epochs");
  EXPECT_EQ(tagged(root.items()[2]).first, "verify");
  const auto refused = [&](size_t i) { return message_of([&] { tagged(root.items()[i]); }); };
  EXPECT_EQ(refused(3), "f:4:3: [3]: expected a name, or a map of one name to its options, found 2 keys (a, b)");
  EXPECT_EQ(refused(4), "f:5:3: [4]: expected a name, or a map of one name to its options, found a list");
  EXPECT_EQ(refused(5), "f:6:3: [5]: expected a name, or a map of one name to its options, found 0 keys");
  EXPECT_THAT(refused(6), testing::EndsWith("found nothing"));
}

/// Equal in everything that parsing sees.
bool same(const Node& a, const Node& b) {
  if (a.is_null() || b.is_null()) return a.is_null() && b.is_null();
  if (a.is_scalar() != b.is_scalar() || a.is_map() != b.is_map()) return false;
  if (a.is_scalar()) return a.text() == b.text();
  if (a.is_map()) {
    if (a.keys() != b.keys()) return false;
    for (const std::string& key : a.keys()) {
      if (!same(a.at(key), b.at(key))) return false;
    }
    return true;
  }
  if (a.items().size() != b.items().size()) return false;
  for (size_t i = 0; i < a.items().size(); ++i) {
    if (!same(a.items()[i], b.items()[i])) return false;
  }
  return true;
}

TEST(Yaml, RoundTripsAwkwardTexts) {
  for (const std::string text : {"",      "~",     "null",     "true",         "8",    "-1",        "-",
                                 "- a",   "--",    "---",      "...",          ".",    "a: b",      "a #b",
                                 "#a",    "*a",    "&a",       "!a",           "%a",   "@a",        "`a",
                                 "'a'",   "\"a\"", "a\nb",     "\n",           " a",   "a ",        "\ta",
                                 "{a}",   "[a]",   "a,b",      "a]b",          "?",    "? a",       ":",
                                 "a:",    "\\",    "\\n",      "\u00e4\u2713", "\x01", "/regex.*/", "layer3.*.conv2",
                                 "75%",   "1e-3",  "runs/a b", "-.5",          "+.a",  "<<",        "=",
                                 "a\r\nb"}) {
    for (const bool flow : {false, true}) {
      const Node list = Node::sequence({Node::scalar(text, true), Node::map({{"k", Node::scalar(text, true)}})});
      const Node node = Node::map({{"list", list}, {text.empty() ? "e" : text, Node()}});
      const std::string yaml = flow ? node.inline_yaml() : node.yaml();
      EXPECT_TRUE(same(load(yaml), node)) << yaml;
    }
  }
}

TEST(Yaml, KeepsPlainPlainAndQuotedQuoted) {
  const std::string text = "a: 8\nb: \"8\"\nc: true\nd: \"true\"\ne: -1\nf: .5\ng: 75%\n";
  EXPECT_EQ(load(text).yaml(), text);
}

TEST(Yaml, RoundTripsEmptyCollections) {
  const Node node = load("a: []\nb: {}\nc: [{}, [], ~]\nd:\n");
  EXPECT_TRUE(same(load(node.yaml()), node)) << node.yaml();
  EXPECT_TRUE(same(load(node.inline_yaml()), node)) << node.inline_yaml();
  EXPECT_TRUE(load(Node().yaml()).is_null());
}

}  // namespace
}  // namespace qat::config
