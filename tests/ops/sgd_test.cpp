#include "core/ops/sgd.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tests/ops/vector_targets.h"

namespace qat::ops {
namespace {

TEST(SgdStep, IsTheWrittenFormulaOnEveryTarget) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const Sgd& o : {Sgd{0.1f, 0.9f, 1e-2f, false}, Sgd{0.1f, 0.9f, 1e-2f, true}, Sgd{0.3f, 0.5f, 0.0f, false},
                       Sgd{0.3f, 0.5f, 0.0f, true}, Sgd{0.1f, 0.0f, 1e-2f, false}, Sgd{0.1f, 0.0f, 0.0f, false}}) {
    for (const bool first : {false, true}) {
      const int64_t n = 1003;
      std::vector<float> g(n), v(n), p(n);
      for (auto* values : {&g, &v, &p}) {
        for (float& value : *values) value = normal(random);
      }
      std::vector<float> expected_v = v, expected_p = p;
      for (int64_t i = 0; i < n; ++i) {
        const float d = o.weight_decay != 0 ? std::fma(p[i], o.weight_decay, g[i]) : g[i];
        float step = d;
        if (o.momentum != 0) {
          const float scaled = o.momentum * v[i];
          expected_v[i] = first ? d : scaled + d;
          step = o.nesterov ? std::fma(expected_v[i], o.momentum, d) : expected_v[i];
        }
        expected_p[i] = std::fma(step, -o.learning_rate, p[i]);
      }
      on_every_target([&] {
        std::vector<float> new_v = v, new_p = p;
        sgd_step(o, g.data(), n, first, new_v.data(), new_p.data());
        EXPECT_EQ(new_v, expected_v);
        EXPECT_EQ(new_p, expected_p);
      });
    }
  }
}

}  // namespace
}  // namespace qat::ops
