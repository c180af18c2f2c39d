// Starting a kernel. Internal to core/ops/cuda.
#pragma once

#include <utility>

#include "core/ops/cuda/launch.h"

namespace qat::ops::cuda {

#ifdef __CUDACC__
/// Puts kernel(arguments...) into the stream; throws qat::Error, which says `name`, if the GPU refuses it.
template <class... Parameters, class... Arguments>
void launch_kernel(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, Arguments&&... arguments) {
  kernel<<<grid, block, shared_bytes, stream>>>(std::forward<Arguments>(arguments)...);
  check_launch(name);
}
#endif  // tests/ops/cuda/emulated has its own, for a compiler that is not nvcc

}  // namespace qat::ops::cuda
