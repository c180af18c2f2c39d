// Compiled once for every vector target (Highway's foreach_target): plain loops that the compiler vectorizes.
#include "core/ops/sgd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/sgd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "core/ops/pieces.h"

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

template <bool kDecay, bool kNesterov>
void with_momentum(const Sgd& o, const float* __restrict g, int64_t n, bool first, float* __restrict v,
                   float* __restrict p) {
  // 0 * v + d would be d, but for a v that holds anything.
  for (int64_t i = 0; i < n; ++i) {
    const float d = kDecay ? std::fma(p[i], o.weight_decay, g[i]) : g[i];
    const float scaled = o.momentum * v[i];
    const float velocity = first ? d : scaled + d;
    v[i] = velocity;
    p[i] = std::fma(kNesterov ? std::fma(velocity, o.momentum, d) : velocity, -o.learning_rate, p[i]);
  }
}

void step(const Sgd& o, const float* g, int64_t n, bool first, float* v, float* p) {
  if (o.momentum == 0) {
    for (int64_t i = 0; i < n; ++i) {
      const float d = o.weight_decay != 0 ? std::fma(p[i], o.weight_decay, g[i]) : g[i];
      p[i] = std::fma(d, -o.learning_rate, p[i]);
    }
  } else if (o.weight_decay != 0) {
    o.nesterov ? with_momentum<true, true>(o, g, n, first, v, p) : with_momentum<true, false>(o, g, n, first, v, p);
  } else {
    o.nesterov ? with_momentum<false, true>(o, g, n, first, v, p) : with_momentum<false, false>(o, g, n, first, v, p);
  }
}

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(step);

void sgd_step(const Sgd& options, const float* g, int64_t n, bool first, float* v, float* p) {
  for_pieces(n, [&](int64_t, int64_t begin, int64_t count) {
    HWY_DYNAMIC_DISPATCH(step)(options, g + begin, count, first, v == nullptr ? nullptr : v + begin, p + begin);
  });
}

}  // namespace qat::ops
#endif  // HWY_ONCE
