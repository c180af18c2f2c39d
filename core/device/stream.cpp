#include "core/device/stream.h"

#include "core/base/error.h"

namespace qat::device {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) static_cast<void>(cudaGetLastError());  // it is told here, and is none of later calls
  QAT_CHECK(status == cudaSuccess, "the GPU: {}: {}", what, cudaGetErrorString(status));
}

}  // namespace qat::device
