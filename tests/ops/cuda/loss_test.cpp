#include "core/ops/cuda/loss.h"

#include <algorithm>
#include <cstdint>

#include "core/base/error.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaLoss : public GpuTest {};

struct Result {
  LossTotals totals;
  std::vector<float> gradient;
  int32_t failed = 0;
};

struct Batch {
  int64_t size, classes;
  std::vector<float> logits;
  std::vector<int64_t> labels, others;  // others empty: no mixing
  float share = 1;
  double label_smoothing = 0;
};

Batch drawn_batch(int64_t size, int64_t classes, double spread) {
  Batch b{
      size, classes, drawn<float>(size * classes, size + classes, std::normal_distribution<float>(0, spread)), {}, {}};
  b.labels = drawn<int64_t>(size, classes, std::uniform_int_distribution<int64_t>(0, classes - 1));
  return b;
}

Result run(const Batch& b, const LossTotals& before = {}, int64_t shift = 0) {
  const Array<float> logits(b.logits, shift), gradient(b.size * b.classes, shift), share({b.share});
  const Array<int64_t> labels(b.labels), others(b.others.empty() ? b.labels : b.others);
  const Array<LossTotals> totals(std::vector<LossTotals>{before});
  const Array<int32_t> failed({0});
  const Array<char> scratch(static_cast<int64_t>(cross_entropy_scratch(b.size)));
  Targets targets{.labels = labels.data(), .label_smoothing = b.label_smoothing};
  if (!b.others.empty()) targets.others = others.data(), targets.share = share.data();
  cross_entropy(logits.data(), b.size, b.classes, targets, gradient.data(), totals.data(), failed.data(),
                scratch.data(), nullptr);
  scratch.host();  // nothing behind it was written
  return {totals.host()[0], gradient.host(), failed.host()[0]};
}

/// torch.nn.functional.cross_entropy and its gradient with respect to one sample's logits.
double cross_entropy_of(const float* logits, int64_t classes, int64_t label, double smoothing,
                        std::vector<double>& gradient) {
  const double largest = *std::max_element(logits, logits + classes);
  double sum = 0, loss = 0;
  for (int64_t c = 0; c < classes; ++c) sum += std::exp(logits[c] - largest);
  for (int64_t c = 0; c < classes; ++c) {
    const double log_p = logits[c] - largest - std::log(sum);
    const double target = (c == label ? 1 - smoothing : 0.0) + smoothing / static_cast<double>(classes);
    if (target != 0) loss -= target * log_p;
    gradient[c] = std::exp(log_p) - target;
  }
  return loss;
}

void expect_as_reference(const Batch& b, int64_t shift = 0) {
  SCOPED_TRACE(fmt::format("{} x {}, smoothing {}, share {}", b.size, b.classes, b.label_smoothing, b.share));
  const LossTotals before{0.5, 3, 10};
  const Result gpu = run(b, before, shift);
  double loss = 0;
  int64_t correct = 0;
  std::vector<double> one(b.classes), other(b.classes);
  for (int64_t n = 0; n < b.size; ++n) {
    const float* logits = b.logits.data() + n * b.classes;
    const double share = b.others.empty() ? 1.0 : b.share;
    loss += share * cross_entropy_of(logits, b.classes, b.labels[n], b.label_smoothing, one);
    if (share != 1) {
      loss += (1 - share) * cross_entropy_of(logits, b.classes, b.others[n], b.label_smoothing, other);
    }
    correct += std::max_element(logits, logits + b.classes) - logits == b.labels[n];
    for (int64_t c = 0; c < b.classes; ++c) {
      const double expected = (share * one[c] + (1 - share) * other[c]) / static_cast<double>(b.size);
      ASSERT_NEAR(gpu.gradient[n * b.classes + c], expected,
                  1e-7 * std::abs(expected) + 1e-14 / static_cast<double>(b.size))
          << "sample " << n << ", class " << c;
    }
  }
  EXPECT_NEAR(gpu.totals.loss, before.loss + loss, 1e-11 * (1 + loss));
  EXPECT_EQ(gpu.totals.correct, before.correct + correct);
  EXPECT_EQ(gpu.totals.samples, before.samples + b.size);
  EXPECT_NEAR(gpu.totals.last_loss, loss / static_cast<double>(b.size), 1e-11 * (1 + loss));
  EXPECT_EQ(gpu.failed, 0);
}

TEST_F(CudaLoss, EqualsTheFormula) {
  for (const int64_t classes : {1, 2, 10, 127, 128, 129, 1000}) {
    for (const int64_t size : {1, 3, 31}) {
      for (const double smoothing : {0.0, 0.1, 1.0}) {
        Batch b = drawn_batch(size, classes, 3);
        b.label_smoothing = smoothing;
        expect_as_reference(b, size % 2);
        b.others = drawn<int64_t>(size, classes + 1, std::uniform_int_distribution<int64_t>(0, classes - 1));
        for (const float share : {1.0f, 0.25f, 0.9f}) {
          b.share = share;
          expect_as_reference(b);
        }
      }
    }
  }
}

TEST_F(CudaLoss, ManySamplesAddUp) {
  Batch b = drawn_batch(777, 10, 1);
  expect_as_reference(b);
}

TEST_F(CudaLoss, ByHand) {
  // Equal logits: every class has 1 / 4, the first of them is the largest.
  const Batch b{2, 4, std::vector<float>(8, 5.0f), {0, 2}, {}};
  const Result gpu = run(b);
  EXPECT_NEAR(gpu.totals.loss, 2 * std::log(4.0), 1e-14);
  EXPECT_EQ(gpu.totals.correct, 1);
  expect_equal(gpu.gradient, {-0.375f, 0.125f, 0.125f, 0.125f, 0.125f, 0.125f, -0.375f, 0.125f});
}

TEST_F(CudaLoss, LargeLogitsDoNotOverflow) {
  Batch b{2, 3, {1e30f, -1e30f, 0, -3e38f, 3e38f, 3e38f}, {0, 2}, {}};
  const Result gpu = run(b);
  EXPECT_EQ(gpu.failed, 0);
  EXPECT_NEAR(gpu.totals.loss, std::log(2.0), 1e-14);  // 3e38 + log(2) is 3e38
  EXPECT_EQ(gpu.totals.correct, 1);
  expect_equal(gpu.gradient, {0.0f, 0.0f, 0.0f, 0.0f, 0.25f, -0.25f});
}

TEST_F(CudaLoss, SaysWhereItFails) {
  const Batch good = drawn_batch(5, 7, 1);
  EXPECT_EQ(run(good).failed, 0);
  for (const float value : {NAN, INFINITY}) {
    Batch b = good;
    b.logits[3 * 7 + 2] = value;
    EXPECT_EQ(run(b).failed, 1) << value;
  }
  Batch impossible = good;  // the label has no probability
  impossible.logits[4 * 7 + impossible.labels[4]] = -INFINITY;
  EXPECT_EQ(run(impossible).failed, 1);
  for (const int64_t label : {int64_t{-1}, int64_t{7}, int64_t{-100}, INT64_MAX}) {
    Batch b = good;
    b.labels[4] = label;
    EXPECT_EQ(run(b).failed, 1) << label;
    b = good;
    b.others = good.labels;
    b.others[0] = label;
    b.share = 0.5f;
    EXPECT_EQ(run(b).failed, 1) << label;
    b.share = 1.0f;  // not mixed: nobody asks for it
    EXPECT_EQ(run(b).failed, 0) << label;
  }
}

TEST_F(CudaLoss, AClassMayBeImpossible) {
  Batch b{1, 3, {0, 0, -INFINITY}, {1}, {}};
  const Result gpu = run(b);
  EXPECT_EQ(gpu.failed, 0);
  EXPECT_NEAR(gpu.totals.loss, std::log(2.0), 1e-14);
  expect_equal(gpu.gradient, {0.5f, -0.5f, 0.0f});
  b.label_smoothing = 0.1;  // now it is asked for
  EXPECT_EQ(run(b).failed, 1);
}

TEST_F(CudaLoss, WithoutAGradientAndWithoutSamples) {
  const Batch b = drawn_batch(3, 5, 1);
  const Array<float> logits(b.logits);
  const Array<int64_t> labels(b.labels);
  const Array<LossTotals> totals(std::vector<LossTotals>{{}});
  const Array<int32_t> failed({0});
  const Array<char> scratch(static_cast<int64_t>(cross_entropy_scratch(3)));
  cross_entropy(nullptr, 0, 5, {}, nullptr, totals.data(), failed.data(), nullptr, nullptr);
  EXPECT_EQ(totals.host()[0].samples, 0);
  cross_entropy(logits.data(), 3, 5, {.labels = labels.data()}, nullptr, totals.data(), failed.data(), scratch.data(),
                nullptr);
  EXPECT_EQ(totals.host()[0].loss, run(b).totals.loss);
}

TEST(CudaLossArguments, RefusesWhatHasNoMeaning) {
  const auto call = [](int64_t batch, int64_t classes, const Targets& targets) {
    cross_entropy(nullptr, batch, classes, targets, nullptr, nullptr, nullptr, nullptr, nullptr);
  };
  const float share = 0.5f;
  EXPECT_THROW(call(0, 0, {}), Error);
  EXPECT_THROW(call(-1, 3, {}), Error);
  EXPECT_THROW(call(0, 3, {.label_smoothing = -0.1}), Error);
  EXPECT_THROW(call(0, 3, {.label_smoothing = 1.1}), Error);
  EXPECT_THROW(call(0, 3, {.label_smoothing = NAN}), Error);
  EXPECT_THROW(call(0, 3, {.share = &share}), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
