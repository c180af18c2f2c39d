#include "datasets/synthetic.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "core/base/error.h"

namespace qat::datasets {
namespace {

using Split = SyntheticDataset::Split;

std::vector<std::vector<double>> class_means(const SyntheticDataset& dataset) {
  const size_t classes = static_cast<size_t>(dataset.num_classes());
  std::vector<std::vector<double>> means(classes);
  std::vector<double> counts(classes);
  for (int64_t i = 0; i < dataset.size(); ++i) {
    const Sample sample = dataset.get(i);
    std::vector<double>& mean = means[static_cast<size_t>(sample.label)];
    mean.resize(sample.image.pixels.size());
    for (size_t p = 0; p < mean.size(); ++p) mean[p] += sample.image.pixels[p];
    counts[static_cast<size_t>(sample.label)] += 1.0;
  }
  for (size_t c = 0; c < classes; ++c) {
    for (double& value : means[c]) value /= counts[c];
  }
  return means;
}

TEST(SyntheticTest, ShapeLabelsAndDeterminism) {
  SyntheticOptions options{.num_classes = 3, .channels = 2, .height = 6, .width = 9, .train_samples = 8};
  options.eval_samples = 5;
  const SyntheticDataset train(options, Split::kTrain), again(options, Split::kTrain), eval(options, Split::kEval);
  EXPECT_EQ(train.size(), 8);
  EXPECT_EQ(eval.size(), 5);
  EXPECT_EQ(train.shape(), (Shape{6, 9, 2}));
  EXPECT_EQ(train.num_classes(), 3);
  std::set<std::vector<int>> images;
  const auto add = [&](const Sample& sample) {
    images.emplace(sample.image.pixels.begin(), sample.image.pixels.end());
  };
  for (int64_t i = 0; i < 8; ++i) {
    const Sample sample = train.get(i);
    EXPECT_EQ(sample.label, i % 3);
    EXPECT_EQ(sample.image.pixels.size(), 6U * 9U * 2U);
    EXPECT_EQ(sample.image.pixels, again.get(i).image.pixels);
    add(sample);
  }
  for (int64_t i = 0; i < 5; ++i) add(eval.get(i));
  options.seed = 1;
  add(SyntheticDataset(options, Split::kTrain).get(0));
  EXPECT_EQ(images.size(), 8U + 5U + 1U) << "samples, splits and seeds must differ";
  EXPECT_THROW(train.get(8), Error);
}

TEST(SyntheticTest, NearestClassMeanSeparatesTheClasses) {
  const SyntheticOptions options{.train_samples = 500, .eval_samples = 200};
  const std::vector<std::vector<double>> means = class_means(SyntheticDataset(options, Split::kTrain));
  const SyntheticDataset eval(options, Split::kEval);
  int correct = 0;
  for (int64_t i = 0; i < eval.size(); ++i) {
    const Sample sample = eval.get(i);
    std::vector<double> distances;
    for (const std::vector<double>& mean : means) {
      distances.push_back(std::inner_product(mean.begin(), mean.end(), sample.image.pixels.begin(), 0.0, std::plus<>(),
                                             [](double a, uint8_t b) { return (a - b) * (a - b); }));
    }
    correct += std::min_element(distances.begin(), distances.end()) - distances.begin() == sample.label;
  }
  EXPECT_GE(correct, 190);
}

TEST(SyntheticTest, ManyClassesHaveDifferentGratings) {
  const SyntheticOptions options{.num_classes = 100, .height = 15, .width = 15, .train_samples = 2000};
  const std::vector<std::vector<double>> means = class_means(SyntheticDataset(options, Split::kTrain));
  for (size_t a = 0; a < means.size(); ++a) {
    for (size_t b = 0; b < a; ++b) {
      double squares = 0.0;
      for (size_t p = 0; p < means[a].size(); ++p) squares += (means[a][p] - means[b][p]) * (means[a][p] - means[b][p]);
      // 20 images of noise variance 341 leave about 34 per pixel between equal classes.
      EXPECT_GT(squares / static_cast<double>(means[a].size()), 200.0) << a << " and " << b;
    }
  }
}

TEST(SyntheticTest, RefusesImpossibleSizes) {
  const auto make = [](const SyntheticOptions& options) { SyntheticDataset(options, Split::kTrain); };
  EXPECT_NO_THROW(make({.height = 5, .width = 5}));
  EXPECT_THROW(make({.height = 5, .width = 4}), Error);
  EXPECT_THROW(make({.num_classes = 1}), Error);
  EXPECT_THROW(make({.channels = 0}), Error);
  EXPECT_THROW(make({.train_samples = 0}), Error);
}

}  // namespace
}  // namespace qat::datasets
