// Starting a kernel. Internal to core/ops/cuda.
#pragma once

#include <utility>

#include "core/ops/cuda/launch.h"

namespace qat::ops::cuda {

#ifdef __CUDACC__
/// The beginning of every kernel: until all that the stream did before is done and can be read. A GPU that can sets up
/// the kernel while the one before still runs (programmatic dependent launch): no thread may touch memory earlier.
__device__ inline void await_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Puts kernel(arguments...) into the stream; throws qat::Error, which says `name`, if the GPU refuses it.
template <class... Parameters, class... Arguments>
void launch_kernel(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = launches_early() ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  check_launch(name);
}
#endif  // tests/ops/cuda/emulated has its own, for a compiler that is not nvcc

}  // namespace qat::ops::cuda
