#include "core/base/random.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "core/base/error.h"

namespace qat {
namespace {

/// ln(x) for finite x > 0 to a few units in the last place, from exactly rounded operations only: the C library's
/// log() may differ in its last bit from one machine to the next. With x = m 2^e, sqrt(1/2) <= m < sqrt(2), and
/// t = (m - 1) / (m + 1):  ln x = e ln 2 + 2 (t + t^3/3 + t^5/5 + ...),  |t| <= 0.1716, so 11 terms reach 2^-56.
double portable_log(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752440) {
    m *= 2.0;
    --exponent;
  }
  const double t = (m - 1.0) / (m + 1.0);
  const double square = t * t;
  double sum = 0.0;
  for (int k = 21; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return exponent * 0.69314718055994530942 + 2.0 * (t * sum);
}

}  // namespace

uint64_t CounterRng::below(uint64_t n) {
  QAT_CHECK(n > 0, "CounterRng::below: expected n >= 1, found 0");
  // The lowest 2^64 mod n values are dropped: what remains is a whole number of rounds of 0 .. n-1.
  const uint64_t rejected = (0 - n) % n;
  uint64_t bits = next();
  while (bits < rejected) bits = next();
  return bits % n;
}

double CounterRng::normal() {
  // The pair's other half is not kept, so that the state stays one counter.
  while (true) {
    const double u = 2.0 * uniform() - 1.0;
    const double v = 2.0 * uniform() - 1.0;
    const double s = u * u + v * v;
    if (s > 0.0 && s < 1.0) return u * std::sqrt(-2.0 * portable_log(s) / s);
  }
}

std::vector<int64_t> permutation(int64_t n, uint64_t seed, uint64_t stream) {
  QAT_CHECK(n >= 0, "permutation: expected n >= 0, found {}", n);
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  CounterRng rng(seed, stream);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  return order;
}

}  // namespace qat
