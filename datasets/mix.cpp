#include "datasets/mix.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/random.h"
#include "datasets/transform_options.h"

namespace qat::datasets {
namespace {

// Gamma(shape, 1) by Marsaglia and Tsang (2000); below 1 by their boost of shape + 1.
double gamma(CounterRng& rng, double shape) {
  if (shape < 1) {
    const double boost = std::pow(1.0 - rng.uniform(), 1.0 / shape);  // of (0, 1]
    return gamma(rng, shape + 1) * boost;
  }
  const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = rng.normal();
    const double v = std::pow(1.0 + c * x, 3);
    if (v <= 0) continue;
    if (std::log(1.0 - rng.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

// Beta(alpha, alpha). Where both gammas underflow, alpha is so small that the number is 0 or 1.
double beta(CounterRng& rng, double alpha) {
  const double a = gamma(rng, alpha), b = gamma(rng, alpha);
  return a + b > 0 ? a / (a + b) : static_cast<double>(rng.below(2));
}

// Calls visit(image, other) for every image with the unchanged one before it.
template <class Visit>
void visit_pairs(Batch& batch, int64_t elements, const Visit& visit) {
  float* images = batch.images.data();
  const std::vector<float> last(images + (batch.size - 1) * elements, images + batch.size * elements);
  for (int64_t i = batch.size - 1; i > 0; --i) visit(images + i * elements, images + (i - 1) * elements);
  visit(images, last.data());
}

double mixup(Batch& batch, const Shape& shape, double alpha, CounterRng& rng) {
  const double share = beta(rng, alpha);
  const auto own = static_cast<float>(share), other = static_cast<float>(1 - share);
  const int64_t elements = shape[0] * shape[1] * shape[2];
  visit_pairs(batch, elements, [&](float* x, const float* y) {
    for (int64_t i = 0; i < elements; ++i) x[i] = own * x[i] + other * y[i];
  });
  return share;
}

double cutmix(Batch& batch, const Shape& shape, double alpha, CounterRng& rng) {
  const auto [height, width, channels] = shape;
  const double half = 0.5 * std::sqrt(1 - beta(rng, alpha));
  const int64_t x = pick(rng, width), y = pick(rng, height);
  const auto half_width = static_cast<int64_t>(half * static_cast<double>(width));
  const auto half_height = static_cast<int64_t>(half * static_cast<double>(height));
  const int64_t left = std::max<int64_t>(0, x - half_width), right = std::min(width, x + half_width);
  const int64_t top = std::max<int64_t>(0, y - half_height), bottom = std::min(height, y + half_height);
  const int64_t row = width * channels;
  visit_pairs(batch, height * row, [&](float* to, const float* from) {
    for (int64_t at = top; at < bottom; ++at) {
      std::copy(from + at * row + left * channels, from + at * row + right * channels, to + at * row + left * channels);
    }
  });
  return 1 - static_cast<double>((right - left) * (bottom - top)) / static_cast<double>(height * width);
}

}  // namespace

Mixture mix(Batch& batch, const Shape& shape, const MixOptions& options, uint64_t key) {
  QAT_CHECK(options.mixup_alpha >= 0 && options.cutmix_alpha >= 0, "mix: expected alphas >= 0, found {} and {}",
            options.mixup_alpha, options.cutmix_alpha);
  const bool both = options.mixup_alpha > 0 && options.cutmix_alpha > 0;
  if (batch.size == 0 || (options.mixup_alpha == 0 && options.cutmix_alpha == 0)) return {};
  CounterRng rng(key);
  const bool cut = both ? rng.below(2) == 1 : options.cutmix_alpha > 0;
  Mixture mixture{1, batch.labels};
  std::rotate(mixture.others.rbegin(), mixture.others.rbegin() + 1, mixture.others.rend());
  mixture.share = cut ? cutmix(batch, shape, options.cutmix_alpha, rng) : mixup(batch, shape, options.mixup_alpha, rng);
  return mixture;
}

}  // namespace qat::datasets
