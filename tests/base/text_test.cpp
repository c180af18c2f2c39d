#include "core/base/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace qat {
namespace {

TEST(EditDistance, CountsSingleEdits) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("", "ab"), 2u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);  // k->s, e->i, +g
  EXPECT_EQ(edit_distance("nmae", "name"), 1u);       // one swap
  EXPECT_EQ(edit_distance("ca", "abc"), 3u);          // optimal string alignment, where full Damerau has 2
}

TEST(NearestMatch, FindsTypos) {
  const std::vector<std::string> keys = {"lr", "momentum", "nesterov", "weight_decay"};
  EXPECT_EQ(nearest_match("lrr", keys), "lr");
  EXPECT_EQ(nearest_match("Momentun", keys), "momentum");
  EXPECT_EQ(nearest_match("weightdecay", keys), "weight_decay");
  EXPECT_EQ(nearest_match("epochs", keys), "");
  EXPECT_EQ(nearest_match("x", keys), "");
  EXPECT_EQ(nearest_match(std::string(100000, 'x'), keys), "");
  EXPECT_EQ(nearest_match("anything", {}), "");
}

TEST(NearestMatch, PrefersTheNearerThenTheFirst) {
  const std::vector<std::string> names = {"resnet18", "resnet20", "resnet200"};
  EXPECT_EQ(nearest_match("resnet200x", names), "resnet200");
  EXPECT_EQ(nearest_match("resnet19", names), "resnet18");
}

TEST(DidYouMean, IsEmptyWithoutANearName) {
  const std::vector<std::string> keys = {"epochs"};
  EXPECT_EQ(did_you_mean("epoch", keys), " (did you mean 'epochs'?)");
  EXPECT_EQ(did_you_mean("zzz", keys), "");
}

TEST(Join, PutsSeparatorsBetween) {
  const std::vector<std::string> parts = {"a", "b", "c"};
  EXPECT_EQ(join(parts), "a, b, c");
  EXPECT_EQ(join(parts, "/"), "a/b/c");
  EXPECT_EQ(join({}), "");
}

TEST(InQuotes, KeepsMessagesOnOneLine) {
  EXPECT_EQ(in_quotes("a\nb\tc\x01"), "'a\\nb\\tc\\x01'");
  EXPECT_EQ(in_quotes(std::string(80, 'x')), "'" + std::string(80, 'x') + "'");
  EXPECT_EQ(in_quotes(std::string(81, 'x')), "'" + std::string(77, 'x') + "...'");
}

TEST(InQuotes, DoesNotCutACharacter) {
  const std::string text = std::string(76, 'x') + "\u00e4\u00e4\u00e4";  // bytes 76-77, 78-79, 80-81
  EXPECT_EQ(in_quotes(text), "'" + std::string(76, 'x') + "...'");
}

TEST(FormatBytes, UsesBinaryUnits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(format_bytes(uint64_t{3} << 30), "3.0 GiB");
  EXPECT_EQ(format_bytes(UINT64_MAX), "16777216.0 TiB");
}

TEST(FormatDuration, ShowsHoursWhenNeeded) {
  EXPECT_EQ(format_duration(0.0), "00:00");
  EXPECT_EQ(format_duration(372.0), "06:12");
  EXPECT_EQ(format_duration(59.6), "01:00");
  EXPECT_EQ(format_duration(3972.0), "1:06:12");
  EXPECT_EQ(format_duration(100 * 3600.0), "100:00:00");
  EXPECT_EQ(format_duration(-1.0), "--:--");
  EXPECT_EQ(format_duration(NAN), "--:--");
  EXPECT_EQ(format_duration(INFINITY), "--:--");
}

TEST(GlobMatch, KnowsStarAndQuestionMark) {
  EXPECT_TRUE(glob_match("layer3.*.conv2", "layer3.0.conv2"));
  EXPECT_FALSE(glob_match("layer3.*.conv2", "layer3.0.conv1"));
  EXPECT_FALSE(glob_match("layer3.*.conv2", "xlayer3.0.conv2"));
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("**a*", "bca"));
  EXPECT_TRUE(glob_match("conv?", "conv1"));
  EXPECT_FALSE(glob_match("conv?", "conv"));
  EXPECT_FALSE(glob_match("conv", "conv1"));
  EXPECT_FALSE(glob_match("", "a"));
  EXPECT_TRUE(glob_match("*ab*ab", "abxabab"));  // the last * has to give back what it took
  EXPECT_TRUE(glob_match("a[1]", "a[1]"));       // brackets are literal
}

TEST(GlobMatch, IsNotExponential) {
  std::string pattern;
  for (int i = 0; i < 50; ++i) pattern += "a*";
  EXPECT_FALSE(glob_match(pattern + "b", std::string(5000, 'a')));
}

}  // namespace
}  // namespace qat
