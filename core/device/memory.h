// Memory of a program on the device. Internal to core/device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/device/stream.h"
#include "core/device/training_step.h"

namespace qat::device {

inline constexpr size_t kAlignment = 256;

/// Device memory of one allocation; zeros.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes);
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
};

/// Pieces that live as long as it does: parameters, and the small arrays between passes.
class Arena {
 public:
  template <class T>
  T* make(int64_t count) {
    return reinterpret_cast<T*>(bytes(static_cast<size_t>(count) * sizeof(T)));
  }
  template <class T>
  T* make(const std::vector<T>& values) {
    T* made = make<T>(static_cast<int64_t>(values.size()));
    copy(made, values.data(), values.size() * sizeof(T));
    return made;
  }
  int64_t size() const { return size_; }

 private:
  std::byte* bytes(size_t count);
  static void copy(void* to, const void* from, size_t bytes);

  std::vector<std::unique_ptr<DeviceMemory>> blocks_;
  size_t used_ = 0, block_ = 0;
  int64_t size_ = 0;
};

/// The copies of host memory.
class State {
 public:
  explicit State(Arena& arena) : arena_(arena) {}
  /// The device's copy; null for absent memory. Throws qat::Error where the same data has two sizes.
  template <class T>
  T* at(const HostMemory& host) {
    return reinterpret_cast<T*>(find(host));
  }
  void upload();
  /// Of memory that no upload has seen.
  void upload_new();
  void download() const;

 private:
  struct Copy {
    int64_t bytes = 0;
    std::byte* device = nullptr;
    bool is_new = true;
  };
  void upload(bool only_new);
  std::byte* find(const HostMemory& host);

  Arena& arena_;
  std::map<void*, Copy> copies_;
};

/// A piece of a program's memory that is alive from the first operation that names it to the last one.
struct Buffer {
  int index = -1;
  explicit operator bool() const { return index >= 0; }
};

/// Where a program's operations run.
struct Lanes {
  cudaStream_t stream = nullptr, aside = nullptr;
};

/// Operations in order, and the buffers that they read and write; buffers that are never alive together share memory.
class Program {
 public:
  /// What an operation finds: the buffers that it named.
  class Run {
   public:
    Run(const Program& program, int operation, cudaStream_t stream)
        : stream(stream), program_(program), operation_(operation) {}
    /// Null for no buffer. Throws qat::Error for one that the operation did not name.
    template <class T>
    T* at(Buffer buffer) const {
      return reinterpret_cast<T*>(find(buffer));
    }
    const cudaStream_t stream;

   private:
    std::byte* find(Buffer buffer) const;
    const Program& program_;
    int operation_;
  };

  template <class T>
  Buffer make(int64_t count) {
    return make_bytes(static_cast<size_t>(count) * sizeof(T));
  }
  Buffer make_bytes(size_t bytes);

  /// buffers: all that the operation touches; absent ones are left out.
  void add(std::string name, const std::vector<Buffer>& buffers, std::function<void(const Run&)> run);
  /// The same for one that may run beside the operations after it, until the next one aside, join() or the end.
  void add_aside(std::string name, const std::vector<Buffer>& buffers, std::function<void(const Run&)> run);

  /// What is added afterwards comes after all operations aside.
  void join();
  /// Memory elsewhere that lives from the forward into the backward pass.
  void keep(int64_t bytes) { kept_elsewhere_ += bytes; }
  /// The forward pass ends with the last operation so far.
  void end_forward() { forward_ = static_cast<int>(operations_.size()); }

  /// Gives every buffer its place. No operation is added afterwards.
  void plan();
  /// All of it comes before what is put into lanes.stream afterwards.
  void run(const Lanes& lanes) const;
  int64_t size() const { return static_cast<int64_t>(size_); }
  /// Bytes of the buffers that operations before and after the forward pass's end name, and of what keep() was told.
  int64_t kept_size() const;

 private:
  struct Piece {
    size_t bytes = 0, offset = 0;
    int first = -1, last = -1;
  };
  struct Operation {
    std::string name;
    std::vector<int> buffers;
    std::function<void(const Run&)> run;
    bool aside = false, joins = false;
  };
  std::vector<Piece> pieces_;
  std::vector<Operation> operations_;
  std::unique_ptr<DeviceMemory> memory_;
  Event before_aside_, behind_aside_;
  size_t size_ = 0;
  int forward_ = 0;  // operations
  int64_t kept_elsewhere_ = 0;
};

}  // namespace qat::device
