#include <cstdio>

#include "core/ops/cuda/device.h"
#include "core/ops/cuda/launch.h"

namespace {

__global__ void probe() {}

}  // namespace

bool qat::ops::cuda::launches_early() {
  static const bool early = [] {
    cudaFuncAttributes attributes = {};
    // Code of compute capability 8.0 that a driver translates for a newer GPU keeps its ptxVersion.
    const cudaError_t status = cudaFuncGetAttributes(&attributes, probe);
    static_cast<void>(cudaGetLastError());
    return status == cudaSuccess && attributes.ptxVersion >= 90 && attributes.binaryVersion >= 90;
  }();
  return early;
}

int qat_cuda_device_count(char* reason, size_t size) {
  int devices = 0;
  cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) {
    // The count says nothing about the architectures that the kernels were compiled for.
    cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, probe);
    if (status == cudaSuccess) return devices;
  }
  static_cast<void>(cudaGetLastError());  // asking is no error of later calls
  if (reason == nullptr || size == 0) return 0;
  if (status == cudaErrorInsufficientDriver) {  // also where there is no driver at all
    constexpr int kMajor = CUDART_VERSION / 1000, kMinor = CUDART_VERSION % 1000 / 10;
    std::snprintf(reason, size, "CUDA: no NVIDIA driver for CUDA %d.%d or later was found", kMajor, kMinor);
  } else {
    std::snprintf(reason, size, "CUDA: %s", status == cudaSuccess ? "no GPU was found" : cudaGetErrorString(status));
  }
  return 0;
}
