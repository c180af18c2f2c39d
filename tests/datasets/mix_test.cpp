#include "datasets/mix.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "core/base/error.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;

// Image i is all i + 1, its label i.
Batch numbered(int64_t size, const Shape& shape) {
  Batch batch{size, {}, {}};
  for (int64_t i = 0; i < size; ++i) {
    batch.images.insert(batch.images.end(), static_cast<size_t>(shape[0] * shape[1] * shape[2]),
                        static_cast<float>(i + 1));
    batch.labels.push_back(i);
  }
  return batch;
}

TEST(Mix, NothingByDefault) {
  Batch batch = numbered(2, {1, 1, 1});
  const Mixture mixture = mix(batch, {1, 1, 1}, {}, 0);
  EXPECT_EQ(mixture.share, 1);
  EXPECT_THAT(mixture.others, testing::IsEmpty());
  EXPECT_THAT(batch.images, ElementsAre(1.0F, 2.0F));
}

TEST(Mix, MixupAddsTheImageBefore) {
  const Shape shape{2, 1, 1};
  Batch batch = numbered(3, shape);
  const Mixture mixture = mix(batch, shape, {.mixup_alpha = 1}, 5);
  EXPECT_THAT(mixture.others, ElementsAre(2, 0, 1));
  EXPECT_THAT(batch.labels, ElementsAre(0, 1, 2));
  const double s = mixture.share;
  EXPECT_GT(s, 0);
  EXPECT_LT(s, 1);
  for (const auto& [image, own, other] : {std::tuple{0, 1.0, 3.0}, {1, 2.0, 1.0}, {2, 3.0, 2.0}}) {
    for (int i = 0; i < 2; ++i) {
      EXPECT_NEAR(batch.images[static_cast<size_t>(2 * image + i)], s * own + (1 - s) * other, 1e-6);
    }
  }
}

TEST(Mix, CutmixPastesABoxOfItsShare) {
  const Shape shape{7, 9, 2};
  std::set<std::pair<int, int>> corners;
  for (uint64_t key = 0; key < 200; ++key) {
    Batch batch = numbered(2, shape);
    const Mixture mixture = mix(batch, shape, {.cutmix_alpha = 1}, key);
    EXPECT_THAT(mixture.others, ElementsAre(1, 0));
    int top = 7, bottom = -1, left = 9, right = -1, count = 0;
    for (int i = 0; i < 7 * 9; ++i) {
      const bool pasted = batch.images[static_cast<size_t>(2 * i)] == 2;
      EXPECT_EQ(batch.images[static_cast<size_t>(2 * i + 1)], pasted ? 2 : 1) << "both channels";
      EXPECT_EQ(batch.images[static_cast<size_t>(2 * (63 + i))], pasted ? 1 : 2) << "the same box in the other image";
      if (!pasted) continue;
      top = std::min(top, i / 9);
      bottom = std::max(bottom, i / 9);
      left = std::min(left, i % 9);
      right = std::max(right, i % 9);
      ++count;
    }
    EXPECT_DOUBLE_EQ(mixture.share, 1 - count / 63.0);
    if (count == 0) continue;
    EXPECT_EQ(count, (bottom - top + 1) * (right - left + 1)) << "a box";
    corners.insert({top, left});
  }
  EXPECT_GT(corners.size(), 20U);
}

TEST(Mix, SharesAreBetaDistributed) {
  // Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
  for (const double alpha : {0.2, 1.0, 4.0}) {
    constexpr int kRuns = 4000;
    double sum = 0, squares = 0;
    for (uint64_t key = 0; key < kRuns; ++key) {
      Batch batch = numbered(1, {1, 1, 1});
      const double share = mix(batch, {1, 1, 1}, {.mixup_alpha = alpha}, key).share;
      EXPECT_GE(share, 0);
      EXPECT_LE(share, 1);
      sum += share;
      squares += (share - 0.5) * (share - 0.5);
    }
    const double variance = 1 / (4 * (2 * alpha + 1));
    EXPECT_NEAR(sum / kRuns, 0.5, 4 * std::sqrt(variance / kRuns)) << alpha;
    // The square of a number within 1/2 of the mean varies by at most 1/4 of its own mean.
    EXPECT_NEAR(squares / kRuns, variance, 4 * std::sqrt(0.25 * variance / kRuns)) << alpha;
  }
  Batch batch = numbered(1, {1, 1, 1});
  const double extreme = mix(batch, {1, 1, 1}, {.mixup_alpha = 1e-12}, 3).share;
  EXPECT_TRUE(extreme == 0 || extreme == 1) << extreme;
}

TEST(Mix, TossesACoinBetweenBoth) {
  int cuts = 0;
  const Shape shape{8, 8, 1};
  for (uint64_t key = 0; key < 400; ++key) {
    Batch batch = numbered(2, shape), same = numbered(2, shape);
    mix(batch, shape, {.mixup_alpha = 1, .cutmix_alpha = 1}, key);
    mix(same, shape, {.mixup_alpha = 1, .cutmix_alpha = 1}, key);
    EXPECT_EQ(batch.images, same.images);
    cuts += batch.images == numbered(2, shape).images ||
            std::all_of(batch.images.begin(), batch.images.end(), [](float x) { return x == 1 || x == 2; });
  }
  EXPECT_NEAR(cuts, 200, 40);  // 4 standard deviations of 10
}

TEST(Mix, RefusesNegativeAlphas) {
  Batch batch = numbered(1, {1, 1, 1});
  EXPECT_THROW(mix(batch, {1, 1, 1}, {.mixup_alpha = -1}, 0), Error);
}

}  // namespace
}  // namespace qat::datasets
