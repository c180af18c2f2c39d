#include "core/ops/targets.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include "core/base/error.h"

namespace qat::ops {
namespace {

TEST(VectorTarget, IsLimitedAndGivenBack) {
  const std::string best = vector_target();
  if ((hwy::SupportedTargets() & HWY_AVX2) == 0) GTEST_SKIP() << "this machine has no AVX2";
  limit_vector_target("avx2");
  EXPECT_EQ(vector_target(), "AVX2");
  if ((hwy::SupportedTargets() & HWY_AVX3) != 0) {
    limit_vector_target("avx512");
    EXPECT_EQ(vector_target(), "AVX3");
  } else {
    EXPECT_THROW(limit_vector_target("avx512"), UsageError);
  }
  limit_vector_target("");
  EXPECT_EQ(vector_target(), best);
}

TEST(VectorTarget, UnknownNamesAreRefused) { EXPECT_THROW(limit_vector_target("sse9"), UsageError); }

}  // namespace
}  // namespace qat::ops
