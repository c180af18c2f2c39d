#include "core/base/version.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qat {
namespace {

TEST(Version, HasANumberAndARevision) {
  EXPECT_THAT(version_string(), testing::MatchesRegex("[0-9]+[.][0-9]+[.][0-9]+ [(]git [a-z0-9+-]+[)]"));
}

}  // namespace
}  // namespace qat
