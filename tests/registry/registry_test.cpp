#include "core/registry/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace qat {
namespace {

using Factory = std::function<int(int)>;

/// The pattern that the header describes.
Registry<Factory>& sums() {
  static Registry<Factory> registry = [] {
    Registry<Factory> r("sum");
    r.add("plus_two", "adds two", [](int x) { return x + 2; });
    r.add("plus_one", "adds one", [](int x) { return x + 1; });
    return r;
  }();
  return registry;
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no Error";
}

TEST(Registry, FindsFactoriesByName) {
  EXPECT_EQ(sums().get("plus_one")(5), 6);
  EXPECT_EQ(sums().get("plus_two")(5), 7);
  EXPECT_EQ(sums().description("plus_one"), "adds one");
  EXPECT_TRUE(sums().contains("plus_one"));
  EXPECT_FALSE(sums().contains("plus"));
  EXPECT_EQ(sums().kind(), "sum");
  EXPECT_THAT(sums().names(), testing::ElementsAre("plus_one", "plus_two"));
}

TEST(Registry, UnknownNamesTellTheNearestAndAll) {
  EXPECT_EQ(message_of([] { sums().get("plus_on"); }),
            "unknown sum 'plus_on' (did you mean 'plus_one'?); known: plus_one, plus_two");
  EXPECT_EQ(message_of([] { sums().description("x"); }), "unknown sum 'x'; known: plus_one, plus_two");
}

struct Place {
  ConfigError error(const std::string& message) const { return ConfigError("f:1:2: " + message); }
};

TEST(Registry, UnknownNamesInAConfigCarryTheirPosition) {
  EXPECT_EQ(sums().get("plus_one", Place{})(1), 2);
  try {
    sums().get("none", Place{});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "f:1:2: unknown sum 'none'; known: plus_one, plus_two");
  }
}

TEST(Registry, NamesAreTakenOnce) {
  Registry<Factory> registry("sum");
  registry.add("a", "first", [](int) { return 1; });
  EXPECT_EQ(message_of([&] { registry.add("a", "second", [](int) { return 2; }); }), "cannot register sum 'a' twice");
  EXPECT_EQ(registry.get("a")(0), 1);
  EXPECT_EQ(message_of([&] { registry.add("", "none", {}); }), "cannot register a sum without a name");
}

}  // namespace
}  // namespace qat
