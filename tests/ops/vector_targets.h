// Runs a test's body on every vector instruction set that this machine has and the kernels are compiled for.
#pragma once

#define HWY_WANT_AVX3_DL  // some kernels have it
#include <gtest/gtest.h>
#include <hwy/highway.h>

namespace qat::ops {

template <class Body>
void on_every_target(const Body& body) {
  for (int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::GetChosenTarget().Update(target);
    body();
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace qat::ops
