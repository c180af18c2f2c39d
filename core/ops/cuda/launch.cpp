#include "core/ops/cuda/launch.h"

#include "core/base/error.h"

namespace qat::ops::cuda {

void require(bool condition, const char* kernel, const char* expectation) {
  QAT_CHECK(condition, "{}: {}", kernel, expectation);
}

void require_codes(const DeviceRange& range, const char* kernel) {
  QAT_CHECK(range.lo >= 0 && range.lo <= range.hi && range.hi <= 255,
            "{}: codes [{}, {}] do not fit the storage type's [0, 255]", kernel, range.lo, range.hi);
}

void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  QAT_CHECK(status == cudaSuccess, "{}: the GPU refused the kernel: {}", kernel, cudaGetErrorString(status));
}

}  // namespace qat::ops::cuda
