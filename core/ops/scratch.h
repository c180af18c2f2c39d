// Memory of kernels. Scratch is for the length of a call and kept by its thread for the next call: after the first one
// of a kind nothing is allocated. Internal to core/ops.
#pragma once

#include <cstddef>
#include <new>
#include <utility>
#include <vector>

namespace qat::ops {

/// At least `bytes`, aligned to 64.
void* take_scratch(size_t bytes);
/// To the calling thread, which need not be the one that took it.
void give_scratch(void* memory) noexcept;

/// For std::vector. Elements that are given no value are left uninitialized.
template <class T>
struct ScratchAllocator {
  using value_type = T;

  ScratchAllocator() = default;
  template <class U>
  ScratchAllocator(const ScratchAllocator<U>&) {}

  T* allocate(size_t n) { return static_cast<T*>(take_scratch(n * sizeof(T))); }
  void deallocate(T* p, size_t) noexcept { give_scratch(p); }
  template <class U>
  void construct(U* p) {
    ::new (static_cast<void*>(p)) U;
  }
  template <class U, class... Arguments>
  void construct(U* p, Arguments&&... arguments) {
    ::new (static_cast<void*>(p)) U(std::forward<Arguments>(arguments)...);
  }
  template <class U>
  bool operator==(const ScratchAllocator<U>&) const {
    return true;
  }
};

template <class T>
using ScratchVector = std::vector<T, ScratchAllocator<T>>;

/// For what lives longer: aligned to 64, so that no vector lies across two lines of a cache.
template <class T>
struct AlignedAllocator {
  using value_type = T;

  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}

  T* allocate(size_t n) { return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, size_t) noexcept { ::operator delete (p, std::align_val_t{64}); }
  template <class U>
  bool operator==(const AlignedAllocator<U>&) const {
    return true;
  }
};

template <class T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

}  // namespace qat::ops
