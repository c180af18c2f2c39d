#include "trainers/gpu_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "core/base/error.h"

namespace qat::trainers {
namespace {

struct Library {
  int (*count)(char*, size_t) = nullptr;
  device::MakeTrainingStep make = nullptr;
  std::string failure;
};

Library open_library() {
  Library library;
  const char* chosen = std::getenv("QAT_CUDA_LIBRARY");
  void* handle = dlopen(chosen != nullptr ? chosen : "libqat_cuda.so", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.failure = fmt::format("this build has no CUDA kernels ({})", dlerror());
    return library;
  }
  library.count = reinterpret_cast<decltype(library.count)>(dlsym(handle, "qat_cuda_device_count"));
  const auto find = reinterpret_cast<device::MakeTrainingStep (*)()>(dlsym(handle, "qat_cuda_training_step"));
  if (library.count == nullptr || find == nullptr) {
    library.count = nullptr;
    library.failure = "the CUDA library is not that of this qat";
    return library;
  }
  library.make = find();
  return library;
}

const Library& library() {
  static const Library instance = open_library();
  return instance;
}

}  // namespace

int count_gpus(std::string* reason) {
  char text[256] = "";
  const int gpus = library().count == nullptr ? 0 : library().count(text, sizeof(text));
  if (gpus == 0 && reason != nullptr) *reason = library().count == nullptr ? library().failure : text;
  return gpus;
}

std::unique_ptr<device::TrainingStep> make_gpu_training_step(const device::Network& network,
                                                             const std::vector<device::Parameter>& parameters,
                                                             const device::Options& options) {
  std::string reason;
  QAT_CHECK_AS(ConfigError, count_gpus(&reason) > 0, "device: cuda cannot be used: {}", reason);
  return library().make(network, parameters, options);
}

}  // namespace qat::trainers
