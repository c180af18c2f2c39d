#include "core/ops/targets.h"

#include "core/base/error.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops/targets.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace qat::ops::HWY_NAMESPACE {
namespace {

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace qat::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qat::ops {

HWY_EXPORT(target_name);

void limit_vector_target(const std::string& name) {
  const int64_t machine = hwy::SupportedTargets();
  if (name.empty()) {
    hwy::GetChosenTarget().Update(machine);
    return;
  }
  QAT_CHECK_AS(UsageError, name == "avx2" || name == "avx512",
               "unknown instruction set \"{}\"; expected avx2 or avx512", name);
  const int64_t highest = name == "avx2" ? HWY_AVX2 : HWY_AVX3;
  QAT_CHECK_AS(UsageError, (machine & highest) != 0, "this machine has no {}", name);
  hwy::GetChosenTarget().Update(machine & ~(highest - 1));  // better targets are smaller numbers
}

std::string vector_target() { return HWY_DYNAMIC_DISPATCH(target_name)(); }

}  // namespace qat::ops
#endif
