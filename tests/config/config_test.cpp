#include "core/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace qat::config {
namespace {

struct Sgd {
  double lr = 0.1;
  double momentum = 0.0;
  bool nesterov = false;
};

struct Stage {
  std::string name;
  int64_t epochs = 1;
  Sgd optimizer{0.5, 0.9, true};  // defaults that differ from Sgd's own
  std::optional<double> clip;
};

struct Everything {
  int workers = 2;
  int64_t seed = 0;
  std::string device = "cpu";
  std::vector<double> mean = {0.5};
  std::vector<Stage> stages;
  std::map<std::string, Sgd> groups;
  std::optional<Sgd> fine;
  Node transforms;
  std::vector<std::vector<int>> table;
};

struct Window {
  OneOrMore<int64_t> size{{3}};
};

}  // namespace

template <>
struct Schema<Window> {
  static void describe(Fields<Window>& f) { f.field("size", &Window::size).doc("sides").minimum(1); }
};

template <>
struct Schema<Sgd> {
  static void describe(Fields<Sgd>& f) {
    f.field("lr", &Sgd::lr).doc("learning rate").minimum(0.0);
    f.field("momentum", &Sgd::momentum).doc("part of the last step | kept").minimum(0.0).below(1.0);
    f.field("nesterov", &Sgd::nesterov).doc("Nesterov's momentum");
    f.check([](const Sgd& s) { return s.nesterov && s.momentum == 0.0 ? "nesterov needs a momentum above 0" : ""; });
  }
};

template <>
struct Schema<Stage> {
  static void describe(Fields<Stage>& f) {
    f.field("name", &Stage::name).doc("what").required();
    f.field("epochs", &Stage::epochs).above(0).maximum(100);
    f.field("optimizer", &Stage::optimizer);
    f.field("clip", &Stage::clip).above(0.0);
  }
};

template <>
struct Schema<Everything> {
  static void describe(Fields<Everything>& f) {
    f.field("workers", &Everything::workers).minimum(0);
    f.field("seed", &Everything::seed);
    f.field("device", &Everything::device).one_of({"cpu", "cuda", "auto"});
    f.field("mean", &Everything::mean).minimum(0.0).maximum(1.0);
    f.field("stages", &Everything::stages);
    f.field("groups", &Everything::groups);
    f.field("fine", &Everything::fine);
    f.field("transforms", &Everything::transforms);
    f.field("table", &Everything::table);
  }
};

namespace {

template <class T>
T parse_text(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse<T>(load_text(text, "f", overrides).root());
}

template <class T>
std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_text<T>(text, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Parse, FillsFieldsAndKeepsDefaults) {
  const Sgd sgd = parse_text<Sgd>("lr: 1e-3\nmomentum: .5\n");
  EXPECT_EQ(sgd.lr, 0.001);
  EXPECT_EQ(sgd.momentum, 0.5);
  EXPECT_FALSE(sgd.nesterov);
  EXPECT_EQ(parse_text<Sgd>("").lr, 0.1);
  EXPECT_EQ(parse_text<Sgd>("{}").lr, 0.1);
}

TEST(Parse, ReadsEveryFieldType) {
  const auto e = parse_text<Everything>(
      "workers: 0\nseed: -9223372036854775808\ndevice: cuda\nmean: [0, 1, 0.25]\n"
      "stages:\n  - {name: 010, optimizer: {lr: 1}, clip: 2}\n  - name: b\n    clip: null\n"
      "groups: {bias: {lr: 2}}\nfine: {momentum: 0.25}\ntransforms: [a, {b: {c: 1}}]\ntable: [[1, 2], []]\n");
  EXPECT_EQ(e.workers, 0);
  EXPECT_EQ(e.seed, std::numeric_limits<int64_t>::min());
  EXPECT_EQ(e.device, "cuda");
  EXPECT_THAT(e.mean, testing::ElementsAre(0.0, 1.0, 0.25));
  ASSERT_EQ(e.stages.size(), 2u);
  EXPECT_EQ(e.stages[0].name, "010");
  EXPECT_EQ(e.stages[0].optimizer.lr, 1.0);
  EXPECT_EQ(e.stages[0].optimizer.momentum, 0.9);  // Stage's default, not Sgd's
  EXPECT_EQ(e.stages[0].clip, 2.0);
  EXPECT_EQ(e.stages[1].clip, std::nullopt);
  EXPECT_EQ(e.groups.at("bias").lr, 2.0);
  EXPECT_EQ(e.fine->momentum, 0.25);
  EXPECT_EQ(e.transforms.items()[1].at("b").at("c").as<int64_t>(), 1);
  EXPECT_THAT(e.table, testing::ElementsAre(testing::ElementsAre(1, 2), testing::IsEmpty()));
}

TEST(Parse, UnknownKeysNameTheNearestAndAll) {
  EXPECT_EQ(refusal<Sgd>("momentum: 0\nlrr: 1\n"),
            "f:2:1: lrr: unknown key (did you mean 'lr'?); valid keys: lr, momentum, nesterov");
  EXPECT_EQ(refusal<Everything>("stages:\n  - name: a\n    optimizer: {decay: 1}\n"),
            "f:3:17: stages[0].optimizer.decay: unknown key; valid keys: lr, momentum, nesterov");
  EXPECT_EQ(refusal<Everything>("{}", {"stage.lr=1"}),
            "--set stage.lr=1: stage: unknown key (did you mean 'stages'?); valid keys: workers, seed, device, mean, "
            "stages, groups, fine, transforms, table");
}

TEST(Parse, IntegersAreStrict) {
  const std::string at = "f:1:10: workers: expected an integer";
  EXPECT_EQ(refusal<Everything>("workers: 010"), at + " without leading zeros, found '010'");
  EXPECT_EQ(refusal<Everything>("workers: -00"), at + " without leading zeros, found '-00'");
  EXPECT_EQ(refusal<Everything>("workers: 8.0"), at + ", found '8.0' (write 8)");
  EXPECT_EQ(refusal<Everything>("workers: 1e3"), at + ", found '1e3' (write 1000)");
  EXPECT_EQ(refusal<Everything>("workers: 8.5"), at + ", found '8.5'");
  EXPECT_EQ(refusal<Everything>("workers: 0x10"), at + ", found '0x10'");
  EXPECT_EQ(refusal<Everything>("workers: 1_000"), at + ", found '1_000'");
  EXPECT_EQ(refusal<Everything>("workers: two"), at + ", found 'two'");
  EXPECT_EQ(refusal<Everything>("workers: \"2\""), at + ", found the string '2'");
  EXPECT_EQ(refusal<Everything>("workers: [2]"), at + ", found a list");
  EXPECT_EQ(refusal<Everything>("workers: true"), at + ", found 'true'");
  EXPECT_EQ(refusal<Everything>("workers:\nseed: 1"), "f:1:1: workers: expected an integer, found nothing");
  EXPECT_EQ(refusal<Everything>("workers: -"), "f:1:10: not valid YAML: illegal block entry");
  EXPECT_EQ(refusal<Everything>("workers: +-1"), at + ", found '+-1'");
  EXPECT_EQ(parse_text<Everything>("workers: +3").workers, 3);
  EXPECT_EQ(parse_text<Everything>("workers: 0").workers, 0);
}

TEST(Parse, IntegersHaveTheirRange) {
  EXPECT_EQ(refusal<Everything>("workers: 2147483648"),
            "f:1:10: workers: 2147483648 is out of bounds: expected >= -2147483648, <= 2147483647");
  EXPECT_EQ(refusal<Everything>("seed: 9223372036854775808"),
            "f:1:7: seed: 9223372036854775808 is out of bounds: expected >= -9223372036854775808, "
            "<= 9223372036854775807");
  EXPECT_EQ(parse_text<Everything>("seed: 9223372036854775807").seed, std::numeric_limits<int64_t>::max());
}

TEST(Parse, BoundsAreTold) {
  EXPECT_EQ(refusal<Sgd>("lr: -1"), "f:1:5: lr: -1 is out of bounds: expected >= 0");
  EXPECT_EQ(refusal<Sgd>("momentum: 1.0"), "f:1:11: momentum: 1.0 is out of bounds: expected >= 0, < 1");
  EXPECT_EQ(refusal<Stage>("{name: a, epochs: 0}"), "f:1:19: epochs: 0 is out of bounds: expected > 0, <= 100");
  EXPECT_EQ(refusal<Stage>("{name: a, epochs: 101}"), "f:1:19: epochs: 101 is out of bounds: expected > 0, <= 100");
  EXPECT_EQ(parse_text<Stage>("{name: a, epochs: 100}").epochs, 100);
  EXPECT_EQ(refusal<Stage>("{name: a, clip: 0}"), "f:1:17: clip: 0 is out of bounds: expected > 0");
  EXPECT_EQ(refusal<Everything>("mean: [0.5, 1.5]"), "f:1:13: mean[1]: 1.5 is out of bounds: expected >= 0, <= 1");
}

TEST(Parse, NumbersAreFinite) {
  for (const char* text : {"nan", ".nan", "inf", ".inf", "-.inf", "infinity", "1e999", "1.5x", "0x1p3", "one", "1,5"}) {
    EXPECT_EQ(refusal<Sgd>(std::string("lr: ") + text),
              std::string("f:1:5: lr: expected a finite number, found '") + text + "'");
  }
  EXPECT_EQ(refusal<Sgd>("lr: 01.5"), "f:1:5: lr: expected a number without leading zeros, found '01.5'");
  EXPECT_EQ(refusal<Sgd>("lr: '0.5'"), "f:1:5: lr: expected a number, found the string '0.5'");
  EXPECT_EQ(parse_text<Sgd>("lr: +5.").lr, 5.0);
  EXPECT_EQ(parse_text<Sgd>("lr: 8").lr, 8.0);
}

TEST(Parse, OnlyTrueAndFalseAreBools) {
  for (const char* text : {"yes", "no", "on", "off", "True", "1", "y"}) {
    EXPECT_EQ(refusal<Sgd>(std::string("nesterov: ") + text),
              std::string("f:1:11: nesterov: expected true or false, found '") + text + "'");
  }
  EXPECT_EQ(refusal<Sgd>("nesterov: 'true'"), "f:1:11: nesterov: expected true or false, found the string 'true'");
  EXPECT_TRUE(parse_text<Sgd>("{nesterov: true, momentum: 0.9}").nesterov);
}

TEST(Parse, ChoicesNameTheNearest) {
  EXPECT_EQ(refusal<Everything>("device: cdua"),
            "f:1:9: device: expected one of: cpu, cuda, auto, found 'cdua' (did you mean 'cuda'?)");
  EXPECT_EQ(refusal<Everything>("device: {a: 1}"), "f:1:9: device: expected a string, found a map");
  EXPECT_EQ(refusal<Everything>("device:"), "f:1:1: device: expected a string, found nothing");
}

TEST(Parse, WrongKindsAreTold) {
  EXPECT_EQ(refusal<Sgd>("- lr"), "f:1:1: expected a map with keys of lr, momentum, nesterov, found a list");
  EXPECT_EQ(refusal<Everything>("stages: x"), "f:1:9: stages: expected a list, found 'x'");
  EXPECT_EQ(refusal<Everything>("stages:\n"), "f:1:1: stages: expected a list, found nothing");
  EXPECT_EQ(refusal<Everything>("groups: 3"), "f:1:9: groups: expected a map, found '3'");
  EXPECT_EQ(refusal<Everything>("stages: [3]"),
            "f:1:10: stages[0]: expected a map with keys of name, epochs, optimizer, clip, found '3'");
  EXPECT_EQ(refusal<Everything>("device: \"a\\nb\""), "f:1:9: device: expected one of: cpu, cuda, auto, found 'a\\nb'");
}

TEST(Parse, RequiredKeysMustBeThere) {
  EXPECT_EQ(refusal<Everything>("stages:\n  - epochs: 2\n"), "f:2:5: stages[0]: missing key 'name'");
  EXPECT_EQ(refusal<Stage>(""), "f:1:1: missing key 'name'");
}

struct Outer {
  Stage stage;
  Node model;
};

}  // namespace

template <>
struct Schema<Outer> {
  static void describe(Fields<Outer>& f) {
    f.field("stage", &Outer::stage);
    f.field("model", &Outer::model);
  }
};

namespace {

// A struct that is not written at all still has required keys.
TEST(Parse, RequiredKeysOfAnAbsentStruct) { EXPECT_EQ(refusal<Outer>("model: x"), "f:1:1: stage: missing key 'name'"); }

TEST(Parse, AnAbsentSubtreeHasAPlace) {
  const auto outer = parse_text<Outer>("stage: {name: a}");
  EXPECT_TRUE(outer.model.is_null());
  EXPECT_STREQ(outer.model.error("needed").what(), "f:1:1: model: needed");
  EXPECT_EQ(outer.stage.optimizer.lr, 0.5);
}

TEST(Parse, ChecksSeeTheWholeStruct) {
  EXPECT_EQ(refusal<Sgd>("nesterov: true"), "f:1:1: nesterov needs a momentum above 0");
  EXPECT_EQ(refusal<Stage>("{name: a, optimizer: {momentum: 0}}"),
            "f:1:22: optimizer: nesterov needs a momentum above 0");
}

TEST(Parse, OverridesGetTheSameChecks) {
  EXPECT_EQ(refusal<Sgd>("lr: 1", {"lr=-1"}), "--set lr=-1: lr: -1 is out of bounds: expected >= 0");
  EXPECT_EQ(refusal<Sgd>("lr: 1", {"lr=010"}),
            "--set lr=010: lr: expected a number without leading zeros, found '010'");
  EXPECT_EQ(parse_text<Everything>("stages: [{name: a}]", {"stages[0].optimizer.lr=7"}).stages[0].optimizer.lr, 7.0);
}

TEST(Dump, WritesEveryField) {
  EXPECT_EQ(dump(Sgd{}), "lr: 0.1\nmomentum: 0\nnesterov: false\n");
  Everything e;
  e.stages.push_back({"a", 3, {1, 0.5, false}, std::nullopt});
  e.transforms = load_text("[flip, {crop: {size: 28}}]", "f").root();
  EXPECT_EQ(dump(e),
            "workers: 2\nseed: 0\ndevice: cpu\nmean: [0.5]\n"
            "stages:\n  - name: a\n    epochs: 3\n    optimizer:\n      lr: 1\n      momentum: 0.5\n"
            "      nesterov: false\n    clip: null\n"
            "groups: {}\nfine: null\ntransforms:\n  - flip\n  - crop:\n      size: 28\ntable: []\n");
}

TEST(Dump, RoundTripsToTheBit) {
  for (const double value : {0.1, 1.0 / 3.0, 1e-300, 5e-324, 1.7976931348623157e308, 123456789012345680.0, 1e22, 0.0}) {
    Sgd sgd;
    sgd.lr = value;
    EXPECT_EQ(parse_text<Sgd>(dump(sgd)).lr, value) << dump(sgd);
  }
  for (const std::string name : {"", "true", "8", "~", "a: b", "x\ny", "010", "-", "\u00e4"}) {
    Stage stage;
    stage.name = name;
    EXPECT_EQ(parse_text<Stage>(dump(stage)).name, name);
  }
}

TEST(Dump, IsAFixedPoint) {
  const auto e = parse_text<Everything>(
      "mean: []\nstages: [{name: a}, {name: 'on', clip: 0.5}]\ngroups: {g: {}, 'h i': {lr: 3}}\nfine: {}\n"
      "transforms: {a: [~, '8', 8]}\ntable: [[], [1]]\n");
  const std::string first = dump(e);
  EXPECT_EQ(dump(parse_text<Everything>(first)), first);
}

TEST(OneOrMore, TakesAValueOrAList) {
  EXPECT_THAT(parse_text<Window>("{}").size.values, testing::ElementsAre(3));
  EXPECT_THAT(parse_text<Window>("size: 7").size.values, testing::ElementsAre(7));
  EXPECT_THAT(parse_text<Window>("size: [7]").size.values, testing::ElementsAre(7));
  EXPECT_THAT(parse_text<Window>("size: [7, 8]").size.values, testing::ElementsAre(7, 8));
  EXPECT_THAT(parse_text<Window>("size: []").size.values, testing::IsEmpty());
  EXPECT_EQ(refusal<Window>("size: 0"), "f:1:7: size: 0 is out of bounds: expected >= 1");
  EXPECT_EQ(refusal<Window>("size: [7, 0]"), "f:1:11: size[1]: 0 is out of bounds: expected >= 1");
  EXPECT_EQ(refusal<Window>("size: {a: 1}"), "f:1:7: size: expected an integer, found a map");
  for (const char* text : {"size: 7\n", "size: [7, 8]\n", "size: []\n"}) {
    EXPECT_EQ(dump(parse_text<Window>(text)), text);
  }
  EXPECT_THAT(docs<Window>(), testing::HasSubstr("| `size` | integer or list of integer | 3 | >= 1 | sides |\n"));
}

TEST(Dump, RefusesNumbersThatCannotBeRead) {
  Sgd sgd;
  sgd.lr = INFINITY;
  EXPECT_THROW(dump(sgd), Error);
}

TEST(Docs, IsATableOfAllKeys) {
  EXPECT_EQ(docs<Sgd>(),
            "| key | type | default | bounds | meaning |\n|---|---|---|---|---|\n"
            "| `lr` | number | 0.1 | >= 0 | learning rate |\n"
            "| `momentum` | number | 0 | >= 0, < 1 | part of the last step \\| kept |\n"
            "| `nesterov` | bool | false |  | Nesterov's momentum |\n");
}

TEST(Docs, NestsStructs) {
  const std::string table = docs<Everything>();
  EXPECT_THAT(table, testing::HasSubstr("| `device` | string | cpu | one of: cpu, cuda, auto |  |\n"));
  EXPECT_THAT(table, testing::HasSubstr("| `stages` | list of map | [] |  |  |\n"));
  EXPECT_THAT(table, testing::HasSubstr("| `stages[].name` | string | required |  | what |\n"));
  EXPECT_THAT(table, testing::HasSubstr("| `stages[].optimizer` | map |  |  |  |\n"));
  EXPECT_THAT(table, testing::HasSubstr("| `stages[].optimizer.lr` | number | 0.5 | >= 0 | learning rate |\n"));
  EXPECT_THAT(table, testing::HasSubstr("| `stages[].clip` | number or null | null | > 0 |  |\n"));
  EXPECT_THAT(table, testing::HasSubstr("| `groups.<name>.lr` | number | 0.1 |"));
  EXPECT_THAT(table, testing::HasSubstr("| `fine.lr` | number | 0.1 |"));
  EXPECT_THAT(table, testing::HasSubstr("| `transforms` | any | null |"));
  EXPECT_THAT(table, testing::HasSubstr("| `table` | list of list of integer | [] |"));
}

}  // namespace
}  // namespace qat::config
