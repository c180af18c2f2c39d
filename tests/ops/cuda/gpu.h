// What the tests of the CUDA kernels share. Each compares a kernel with the function of the same name in core/ops, bit
// for bit; without a GPU it is skipped and says why.
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "core/ops/cuda/device.h"
#include "core/ops/cuda/types.h"

namespace qat::ops::cuda {

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    char reason[256] = "";
    if (qat_cuda_device_count(reason, sizeof(reason)) == 0) GTEST_SKIP() << reason;
  }
};

/// An array on the device. Its bytes are poisoned first, and those around it must stay so. shift: elements between an
/// aligned address and its first one.
template <class T>
class Array {
 public:
  explicit Array(int64_t n, int64_t shift = 0) : n_(n), before_(kGuard + shift * sizeof(T)) {
    void* bytes = nullptr;
    check(cudaMalloc(&bytes, size()));
    bytes_ = static_cast<unsigned char*>(bytes);
    check(cudaMemset(bytes_, kPoison, size()));
  }
  explicit Array(const std::vector<T>& values, int64_t shift = 0) : Array(static_cast<int64_t>(values.size()), shift) {
    check(cudaMemcpy(data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  Array(std::initializer_list<T> values) : Array(std::vector<T>(values)) {}
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { cudaFree(bytes_); }

  T* data() const { return reinterpret_cast<T*>(bytes_ + before_); }

  /// Waits for the GPU.
  std::vector<T> host() const {
    std::vector<unsigned char> all(size());
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(all.data(), bytes_, size(), cudaMemcpyDeviceToHost));
    const size_t end = before_ + n_ * sizeof(T);
    for (size_t i = 0; i < all.size(); ++i) {
      if (i >= before_ && i < end) continue;
      EXPECT_EQ(all[i], kPoison) << "written " << (i < before_ ? "before the array" : "behind the array");
    }
    std::vector<T> values(static_cast<size_t>(n_));
    std::memcpy(values.data(), all.data() + before_, values.size() * sizeof(T));
    return values;
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr unsigned char kPoison = 0xa5;
  size_t size() const { return before_ + n_ * sizeof(T) + kGuard; }

  int64_t n_;
  size_t before_;
  unsigned char* bytes_ = nullptr;
};

/// The same bits; a NaN equals every NaN.
template <class T>
void expect_equal(const std::vector<T>& gpu, const std::vector<T>& cpu) {
  ASSERT_EQ(gpu.size(), cpu.size());
  int64_t wrong = 0, first = -1;
  for (size_t i = 0; i < gpu.size(); ++i) {
    bool equal = std::memcmp(&gpu[i], &cpu[i], sizeof(T)) == 0;
    if constexpr (std::is_floating_point_v<T>) equal = equal || (std::isnan(gpu[i]) && std::isnan(cpu[i]));
    if (equal) continue;
    if (wrong++ == 0) first = static_cast<int64_t>(i);
  }
  EXPECT_EQ(wrong, 0) << "of " << gpu.size() << "; the first at " << first << ": " << +gpu[first < 0 ? 0 : first]
                      << " instead of " << +cpu[first < 0 ? 0 : first];
}

template <class T, class Distribution>
std::vector<T> drawn(int64_t n, uint64_t seed, Distribution distribution) {
  std::mt19937_64 random(seed);
  std::vector<T> values(static_cast<size_t>(n));
  for (T& v : values) v = static_cast<T>(distribution(random));
  return values;
}
template <class T>
std::vector<T> drawn_codes(int64_t n, uint64_t seed) {
  return drawn<T>(n, seed,
                  std::uniform_int_distribution<int>(std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
}

}  // namespace qat::ops::cuda
