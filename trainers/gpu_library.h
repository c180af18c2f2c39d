// The library of core/ops/cuda and core/device, loaded when a GPU is asked for. Free of LibTorch headers.
#pragma once

#include <string>

#include "core/device/training_step.h"

namespace qat::trainers {

/// GPUs that the library's kernels can run on. Where it is 0, the reason (if not null) says why in one line: no library
/// was built, no driver, no device. The library is libqat_cuda.so beside this one, or the file that the environment
/// variable QAT_CUDA_LIBRARY names.
int count_gpus(std::string* reason);

/// device::make_training_step. Throws ConfigError where count_gpus() is 0.
std::unique_ptr<device::TrainingStep> make_gpu_training_step(const device::Network& network,
                                                             const std::vector<device::Parameter>& parameters,
                                                             const device::Options& options);

}  // namespace qat::trainers
