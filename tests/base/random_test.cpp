#include "core/base/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/error.h"

namespace qat {
namespace {

// The first outputs of SplitMix64 with seed 1234567 (published at
// rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64), and the well-known first output of seed 0.
TEST(SplitMix64, MatchesPublishedSequence) {
  EXPECT_EQ(split_mix64(1234567, 0), 6457827717110365317u);
  EXPECT_EQ(split_mix64(1234567, 1), 3203168211198807973u);
  EXPECT_EQ(split_mix64(1234567, 2), 9817491932198370423u);
  EXPECT_EQ(split_mix64(1234567, 3), 4593380528125082431u);
  EXPECT_EQ(split_mix64(1234567, 4), 16408922859458223821u);
  EXPECT_EQ(split_mix64(0), 0xe220a8397b1dcdafu);
}

TEST(Hash, FoldsItsArgumentsInOrder) {
  EXPECT_EQ(hash(0), 0xe220a8397b1dcdafu);
  EXPECT_EQ(hash(5, 7), split_mix64(split_mix64(5) ^ 7));
  EXPECT_NE(hash(5, 7), hash(7, 5));
  EXPECT_NE(hash(5, 0), hash(5));
  EXPECT_EQ(hash(5, int32_t{-1}), hash(5, UINT64_MAX));
}

TEST(CounterRng, IsTheSequenceOfItsKey) {
  CounterRng rng(3, 4, 5);
  const uint64_t key = hash(3, 4, 5);
  EXPECT_EQ(rng.next(), split_mix64(key, 0));
  EXPECT_EQ(rng.next(), split_mix64(key, 1));
  EXPECT_EQ(rng.uniform(), std::ldexp(static_cast<double>(split_mix64(key, 2) >> 11), -53));
}

// Mean 1/2 and variance 1/12 within 5 standard errors, for a fixed seed.
TEST(CounterRng, UniformHasItsMoments) {
  CounterRng rng(1);
  const int n = 100000;
  double sum = 0.0, squares = 0.0, lowest = 1.0, highest = 0.0;
  for (int i = 0; i < n; ++i) {
    const double u = rng.uniform();
    sum += u;
    squares += (u - 0.5) * (u - 0.5);
    lowest = std::min(lowest, u);
    highest = std::max(highest, u);
  }
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(squares / n, 1.0 / 12, 5 * std::sqrt(1.0 / 180 / n));
  EXPECT_GE(lowest, 0.0);
  EXPECT_LT(highest, 1.0);
}

TEST(CounterRng, BelowIsEvenOverItsRange) {
  CounterRng rng(2);
  std::vector<int> counts(7);
  const int n = 70000;
  for (int i = 0; i < n; ++i) ++counts.at(rng.below(7));
  for (const int count : counts) EXPECT_NEAR(count, n / 7, 5 * std::sqrt(n / 7.0));
  EXPECT_EQ(rng.below(1), 0u);
}

// 2^64 mod 3*2^62 = 2^62: of the bits a plain remainder would map to [0, 2^62), half must be dropped, or that third of
// the range would come up half of the time.
TEST(CounterRng, BelowIsUnbiasedForHugeRanges) {
  CounterRng rng(3);
  int low = 0;
  const int n = 30000;
  for (int i = 0; i < n; ++i) low += rng.below(uint64_t{3} << 62) < uint64_t{1} << 62;
  EXPECT_NEAR(low, n / 3, 5 * std::sqrt(n * 2.0 / 9));
}

TEST(CounterRng, BelowZeroThrows) { EXPECT_THROW(CounterRng(0).below(0), Error); }

// Moments 0, 1, 0, 3 and P(|x| < 1) = 0.6827, within 5 standard errors.
TEST(CounterRng, NormalHasItsMoments) {
  CounterRng rng(4);
  const int n = 200000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  int inside = 0;
  for (int i = 0; i < n; ++i) {
    const double x = rng.normal();
    m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
    inside += std::abs(x) < 1.0;
  }
  EXPECT_NEAR(m1 / n, 0.0, 5 * std::sqrt(1.0 / n));
  EXPECT_NEAR(m2 / n, 1.0, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(m3 / n, 0.0, 5 * std::sqrt(15.0 / n));
  EXPECT_NEAR(m4 / n, 3.0, 5 * std::sqrt(96.0 / n));
  EXPECT_NEAR(inside, 0.682689 * n, 5 * std::sqrt(0.2166 * n));
}

// The same formula with the C library's logarithm, which is good to a unit in the last place.
TEST(CounterRng, NormalIsThePolarMethod) {
  CounterRng rng(5), raw(5);
  for (int i = 0; i < 10000; ++i) {
    double u, s;
    do {
      u = 2 * raw.uniform() - 1;
      const double v = 2 * raw.uniform() - 1;
      s = u * u + v * v;
    } while (s >= 1.0 || s == 0.0);
    const double expected = u * std::sqrt(-2.0 * std::log(s) / s);
    ASSERT_NEAR(rng.normal(), expected, 1e-14 * std::abs(expected));
  }
}

TEST(Permutation, HoldsEveryNumberOnce) {
  std::vector<int64_t> order = permutation(1000, 7);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (int64_t i = 0; i < 1000; ++i) ASSERT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(Permutation, DependsOnSeedAndStreamOnly) {
  EXPECT_EQ(permutation(50, 1, 2), permutation(50, 1, 2));
  EXPECT_NE(permutation(50, 1, 2), permutation(50, 1, 3));
  EXPECT_NE(permutation(50, 1, 2), permutation(50, 2, 2));
}

// By hand from the definition: positions 2 and 1 are swapped with below(3) and below(2) of the key hash(0, 0).
TEST(Permutation, IsFisherYates) {
  CounterRng rng(0, 0);
  std::vector<int64_t> expected = {0, 1, 2};
  std::swap(expected[2], expected[rng.next() % 3]);
  std::swap(expected[1], expected[rng.next() % 2]);
  EXPECT_EQ(permutation(3, 0, 0), expected);
}

TEST(Permutation, EveryOrderOfThreeComesUpEqually) {
  std::vector<int> counts(27);
  for (uint64_t seed = 0; seed < 6000; ++seed) {
    const std::vector<int64_t> p = permutation(3, seed);
    ++counts[static_cast<size_t>(p[0] * 9 + p[1] * 3 + p[2])];
  }
  for (const size_t order : {5, 7, 11, 15, 19, 21}) EXPECT_NEAR(counts[order], 1000, 5 * std::sqrt(1000.0));
}

TEST(Permutation, EdgeSizes) {
  EXPECT_TRUE(permutation(0, 1).empty());
  EXPECT_THAT(permutation(1, 1), testing::ElementsAre(0));
  EXPECT_THROW(permutation(-1, 1), Error);
}

}  // namespace
}  // namespace qat
