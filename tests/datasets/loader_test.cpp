#include "datasets/loader.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <stdexcept>

#include "core/base/error.h"

namespace qat::datasets {
namespace {

using testing::ElementsAre;

// Sample i is a 2x2 image of i, i+1, i+2, i+3 with label i.
class Counting : public Dataset {
 public:
  explicit Counting(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  Sample get(int64_t index) const override {
    if (index == broken_) throw std::out_of_range("sample " + std::to_string(index) + " is broken");
    if (index == wide_) return {{1, 5, 1, std::vector<uint8_t>(5)}, index};
    const auto pixel = [&](int64_t offset) { return static_cast<uint8_t>(index + offset); };
    return {{2, 2, 1, {pixel(0), pixel(1), pixel(2), pixel(3)}}, index == mislabelled_ ? size_ : index};
  }
  int64_t num_classes() const override { return size_; }
  int64_t height() const override { return varies_ ? kVaries : 2; }
  int64_t width() const override { return varies_ ? kVaries : 2; }
  int64_t channels() const override { return 1; }

  int64_t broken_ = -1;
  int64_t wide_ = -1;
  int64_t mislabelled_ = -1;
  bool varies_ = false;

 private:
  int64_t size_;
};

Transforms augmentation() {
  const config::Node root =
      config::load_text("[{random_crop: {size: 2, padding: 1}}, horizontal_flip]", "test.yaml").root();
  return Transforms(root.items(), {2, 2, 1});
}

std::vector<Batch> rest_of_epoch(Loader& loader) {
  std::vector<Batch> batches;
  for (Batch batch; loader.next(batch);) batches.push_back(batch);
  return batches;
}

std::vector<int64_t> labels_of(const std::vector<Batch>& batches) {
  std::vector<int64_t> labels;
  for (const Batch& batch : batches) labels.insert(labels.end(), batch.labels.begin(), batch.labels.end());
  return labels;
}

void expect_equal(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].size, b[i].size);
    EXPECT_EQ(a[i].labels, b[i].labels);
    EXPECT_EQ(a[i].images, b[i].images) << "batch " << i;
  }
}

class LoaderTest : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Workers, LoaderTest, testing::Values(0, 1, 3));

TEST_P(LoaderTest, InOrderWithAPartialLastBatch) {
  Loader loader(std::make_shared<Counting>(5), {}, {.batch_size = 2, .workers = GetParam()});
  EXPECT_EQ(loader.batches(), 3);
  EXPECT_EQ(loader.samples(), 5);
  EXPECT_EQ(loader.shape(), (Shape{2, 2, 1}));
  Batch batch;
  EXPECT_FALSE(loader.next(batch)) << "no epoch was started";
  loader.start_epoch(0);
  ASSERT_TRUE(loader.next(batch));
  EXPECT_EQ(batch.size, 2);
  EXPECT_THAT(batch.labels, ElementsAre(0, 1));
  EXPECT_THAT(batch.images,
              ElementsAre(0.0F, 1 / 255.0F, 2 / 255.0F, 3 / 255.0F, 1 / 255.0F, 2 / 255.0F, 3 / 255.0F, 4 / 255.0F));
  ASSERT_TRUE(loader.next(batch));
  ASSERT_TRUE(loader.next(batch));
  EXPECT_EQ(batch.size, 1);
  EXPECT_THAT(batch.labels, ElementsAre(4));
  EXPECT_EQ(batch.images.size(), 4U);
  EXPECT_FALSE(loader.next(batch));
  EXPECT_FALSE(loader.next(batch));
}

TEST_P(LoaderTest, DropLast) {
  Loader loader(std::make_shared<Counting>(5), {}, {.batch_size = 2, .workers = GetParam(), .drop_last = true});
  EXPECT_EQ(loader.batches(), 2);
  EXPECT_EQ(loader.samples(), 4);
  loader.start_epoch(0);
  EXPECT_THAT(labels_of(rest_of_epoch(loader)), ElementsAre(0, 1, 2, 3));

  Loader none(std::make_shared<Counting>(1), {}, {.batch_size = 2, .workers = GetParam(), .drop_last = true});
  EXPECT_EQ(none.batches(), 0);
  none.start_epoch(0);
  EXPECT_TRUE(rest_of_epoch(none).empty());
}

TEST_P(LoaderTest, SameBatchesAsTheCallersThread) {
  const auto data = std::make_shared<Counting>(101);
  LoaderOptions options{.batch_size = 4, .workers = 0, .shuffle = true, .seed = 7};
  Loader reference(data, augmentation(), options);
  options.workers = GetParam();
  for (const int64_t prefetch : {1, 2, 7}) {
    options.prefetch = prefetch;
    Loader loader(data, augmentation(), options);
    for (const uint64_t epoch : {0, 1, 5}) {
      reference.start_epoch(epoch);
      loader.start_epoch(epoch);
      expect_equal(rest_of_epoch(reference), rest_of_epoch(loader));
    }
  }
}

TEST_P(LoaderTest, EntersAnEpochInItsMiddle) {
  const auto data = std::make_shared<Counting>(50);
  Loader loader(data, augmentation(), {.batch_size = 4, .workers = GetParam(), .shuffle = true, .seed = 3});
  loader.start_epoch(2);
  const std::vector<Batch> whole = rest_of_epoch(loader);
  ASSERT_EQ(whole.size(), 13U);
  for (const int64_t first : {0, 1, 6, 12, 13}) {
    loader.start_epoch(2, first);
    expect_equal(rest_of_epoch(loader), {whole.begin() + first, whole.end()});
  }
  EXPECT_THROW(loader.start_epoch(2, 14), Error);
  EXPECT_THROW(loader.start_epoch(2, -1), Error);
}

TEST_P(LoaderTest, EarlierSamplesAreNotRead) {
  const auto data = std::make_shared<Counting>(10);
  data->broken_ = 1;
  Loader loader(data, {}, {.batch_size = 2, .workers = GetParam()});
  loader.start_epoch(0, 1);
  EXPECT_THAT(labels_of(rest_of_epoch(loader)), ElementsAre(2, 3, 4, 5, 6, 7, 8, 9));
}

TEST_P(LoaderTest, ShuffleIsAPermutationOfSeedAndEpoch) {
  const auto order = [&](uint64_t seed, uint64_t epoch) {
    Loader loader(std::make_shared<Counting>(40), {},
                  {.batch_size = 8, .workers = GetParam(), .shuffle = true, .seed = seed});
    loader.start_epoch(epoch);
    return labels_of(rest_of_epoch(loader));
  };
  std::vector<int64_t> sorted = order(0, 0);
  std::sort(sorted.begin(), sorted.end());
  std::vector<int64_t> all(40);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(sorted, all);
  EXPECT_EQ(order(0, 0), order(0, 0));
  const std::set<std::vector<int64_t>> orders{all, order(0, 0), order(0, 1), order(1, 0), order(1, 1)};
  EXPECT_EQ(orders.size(), 5U);
}

TEST_P(LoaderTest, AugmentationDependsOnTheEpoch) {
  Loader loader(std::make_shared<Counting>(40), augmentation(), {.batch_size = 40, .workers = GetParam()});
  loader.start_epoch(0);
  const std::vector<Batch> first = rest_of_epoch(loader);
  loader.start_epoch(1);
  const std::vector<Batch> second = rest_of_epoch(loader);
  EXPECT_EQ(first[0].labels, second[0].labels);
  EXPECT_NE(first[0].images, second[0].images);
}

TEST_P(LoaderTest, RethrowsAtTheBrokenBatchAndCanBeRestarted) {
  const auto data = std::make_shared<Counting>(20);
  data->broken_ = 5;
  Loader loader(data, {}, {.batch_size = 2, .workers = GetParam()});
  for (int round = 0; round < 3; ++round) {
    loader.start_epoch(0);
    Batch batch;
    ASSERT_TRUE(loader.next(batch));
    ASSERT_TRUE(loader.next(batch));
    EXPECT_THAT(batch.labels, ElementsAre(2, 3));
    try {
      loader.next(batch);
      FAIL() << "expected an exception";
    } catch (const std::out_of_range& error) {
      EXPECT_STREQ(error.what(), "sample 5 is broken");
    }
    EXPECT_FALSE(loader.next(batch)) << "the epoch is over";
  }
  loader.start_epoch(0, 3);
  EXPECT_THAT(labels_of(rest_of_epoch(loader)), testing::SizeIs(14));
}

TEST_P(LoaderTest, RefusesSamplesThatBreakTheDatasetsPromise) {
  const auto wide = std::make_shared<Counting>(4);
  wide->wide_ = 2;
  Loader sizes(wide, {}, {.batch_size = 4, .workers = GetParam()});
  sizes.start_epoch(0);
  Batch batch;
  EXPECT_THROW(sizes.next(batch), Error);

  const auto mislabelled = std::make_shared<Counting>(4);
  mislabelled->mislabelled_ = 3;
  Loader labels(mislabelled, {}, {.batch_size = 4, .workers = GetParam()});
  labels.start_epoch(0);
  EXPECT_THROW(labels.next(batch), Error);
}

TEST_P(LoaderTest, ImagesOfDifferentSizes) {
  const auto data = std::make_shared<Counting>(4);
  data->varies_ = true;
  data->wide_ = 1;
  EXPECT_THROW(Loader(data, {}, {.batch_size = 2, .workers = GetParam()}), Error) << "nothing makes the sizes equal";
  const auto pipeline = [](const std::string& yaml) {
    return Transforms(config::load_text(yaml, "test.yaml").root().items(), {kVaries, kVaries, 1});
  };
  Loader loader(data, pipeline("[{center_crop: {size: 1}}]"), {.batch_size = 2, .workers = GetParam()});
  loader.start_epoch(0);
  // The middle of 2x2 is at round(1 / 2) = 0 on either side; sample 1 is 1x5 and black.
  Batch batch;
  ASSERT_TRUE(loader.next(batch));
  EXPECT_THAT(batch.images, ElementsAre(0.0F, 0.0F));
  ASSERT_TRUE(loader.next(batch));
  EXPECT_THAT(batch.images, ElementsAre(2 / 255.0F, 3 / 255.0F));

  Loader tall(data, pipeline("[{random_crop: {size: 2}}]"), {.batch_size = 2, .workers = GetParam()});
  tall.start_epoch(0);
  try {
    tall.next(batch);
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("sample 1: a window of 2x2 does not fit an image of 1x5"));
  }
}

TEST_P(LoaderTest, AbandonsAnEpoch) {
  const auto data = std::make_shared<Counting>(200);
  for (int i = 0; i < 20; ++i) {
    Loader loader(data, augmentation(), {.batch_size = 1, .workers = GetParam(), .prefetch = 3});
    Batch batch;
    loader.start_epoch(0);
    ASSERT_TRUE(loader.next(batch));
    loader.start_epoch(0, 7);
    ASSERT_TRUE(loader.next(batch));
    EXPECT_THAT(batch.labels, ElementsAre(7));
  }
}

TEST(LoaderOptionsTest, RefusesWhatCannotWork) {
  const auto data = std::make_shared<Counting>(4);
  EXPECT_THROW(Loader(nullptr, {}, {}), Error);
  EXPECT_THROW(Loader(std::make_shared<Counting>(0), {}, {}), Error);
  EXPECT_THROW(Loader(data, {}, {.batch_size = 0}), Error);
  EXPECT_THROW(Loader(data, {}, {.workers = -1}), Error);
  EXPECT_THROW(Loader(data, {}, {.prefetch = 0}), Error);
  const Transforms large(config::load_text("[{random_crop: {size: 3}}]", "test.yaml").root().items(), {4, 4, 1});
  EXPECT_THROW(Loader(data, large, {}), Error);
}

}  // namespace
}  // namespace qat::datasets
