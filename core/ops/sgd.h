// One update of stochastic gradient descent in one pass over memory.
#pragma once

#include <cstdint>

namespace qat::ops {

struct Sgd {
  float learning_rate = 0, momentum = 0, weight_decay = 0;
  bool nesterov = false;
};

/// d = weight_decay ? fma(p, weight_decay, g) : g;  v = fl32(fl32(momentum * v) + d), or d where `first`;
/// p = fma(nesterov ? fma(v, momentum, d) : v, -learning_rate, p). Without momentum v is not read (may be null) and d
/// takes its place.
void sgd_step(const Sgd& options, const float* g, int64_t n, bool first, float* v, float* p);

}  // namespace qat::ops
