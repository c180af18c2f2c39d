// The library as a program meets it: loaded at run time, on machines with and without a GPU.
#include "core/ops/cuda/device.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

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

}  // namespace
