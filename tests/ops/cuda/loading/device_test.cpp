// The library as a program meets it: loaded at run time, on machines with and without a GPU.
#include "core/ops/cuda/device.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "core/base/error.h"
#include "core/device/training_step.h"

namespace {

TEST(CudaLibrary, LoadsAndCountsGpusOrSaysWhyNot) {
  void* library = dlopen(QAT_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  const auto count = reinterpret_cast<decltype(&qat_cuda_device_count)>(dlsym(library, "qat_cuda_device_count"));
  ASSERT_NE(count, nullptr) << dlerror();

  char reason[128] = "";
  const int devices = count(reason, sizeof(reason));
  ASSERT_GE(devices, 0);
  if (devices == 0) {
    EXPECT_TRUE(std::string(reason).starts_with("CUDA: ")) << reason;
    EXPECT_GT(std::strlen(reason), std::strlen("CUDA: "));
    EXPECT_EQ(std::string(reason).find('\n'), std::string::npos);
    // The answer is cut to the room there is, and asking again gives the same.
    char little[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    EXPECT_EQ(count(little, 4), 0);
    EXPECT_EQ(std::string(little), "CUD");
    EXPECT_EQ(little[4], 1);
  } else {
    EXPECT_STREQ(reason, "");
  }
  EXPECT_EQ(count(nullptr, 0), devices);
}

TEST(CudaLibrary, MakesTrainingStepsOrSaysWhyNot) {
  void* library = dlopen(QAT_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  const auto find = reinterpret_cast<decltype(&qat_cuda_training_step)>(dlsym(library, "qat_cuda_training_step"));
  ASSERT_NE(find, nullptr) << dlerror();
  const qat::device::MakeTrainingStep make = find();
  try {
    make({}, {}, {});
    FAIL() << "a network without layers was taken";
  } catch (const qat::Error& error) {
    EXPECT_STREQ(error.what(), "a network for the GPU begins with its input");
  }
  qat::device::Network network;
  network.layers.resize(1);
  network.layers[0].sizes = {1, 8, 8};
  network.output = 0;
  const auto count = reinterpret_cast<decltype(&qat_cuda_device_count)>(dlsym(library, "qat_cuda_device_count"));
  ASSERT_NE(count, nullptr) << dlerror();
  if (count(nullptr, 0) > 0) {
    EXPECT_NE(make(network, {}, {}), nullptr);
    return;
  }
  try {
    make(network, {}, {});
    FAIL() << "a step was made without a GPU";
  } catch (const qat::Error& error) {
    EXPECT_EQ(std::string(error.what()).rfind("the GPU: ", 0), 0U) << error.what();
  }
}

}  // namespace
