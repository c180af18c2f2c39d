// The emulation's threads, and a device whose memory is that of the CPU.
#include "tests/ops/cuda/emulated/emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <stdexcept>
#include <vector>

#include "core/ops/cuda/device.h"

namespace qat::ops::cuda::emulation {
namespace {

constexpr int kWarp = 32, kThreadsAtMost = 1024;
constexpr size_t kStack = 128 * 1024;

/// Threads that wait for each other.
struct Barrier {
  int running = 0, waiting = 0;
  int64_t passed = 0;
  void release() {
    if (waiting == 0 || waiting < running) return;
    waiting = 0;
    ++passed;
  }
};

struct Copy {
  uint32_t to;
  const void* from;
  size_t bytes, valid;
};

/// One of the threads of all blocks, one after another. A context starts it; jumps, which need no system call, go on.
struct Fiber {
  jmp_buf here;
  std::unique_ptr<char[]> stack;
  Place place;
  bool done = true;
  std::vector<Copy> open;                // of the stage that has not ended
  std::deque<std::vector<Copy>> stages;  // that nobody has waited for
};

struct Device {
  jmp_buf scheduler;
  std::array<Fiber, kThreadsAtMost> fibers;
  std::array<std::array<char, kMail>, kThreadsAtMost> mail;
  alignas(128) std::array<unsigned char, 256 * 1024> shared;
  std::array<Barrier, kThreadsAtMost / kWarp> warps;
  Barrier block;
  int current = 0;
  int64_t progress = 0;
  bool forwards = true;
  const std::function<void()>* body = nullptr;
};

Device& device() {
  static Device instance;
  return instance;
}

Fiber& current() { return device().fibers[static_cast<size_t>(device().current)]; }

void pause() {
  Device& d = device();
  if (_setjmp(current().here) == 0) _longjmp(d.scheduler, 1);
}

void wait(Barrier& barrier) {
  const int64_t passed = barrier.passed;
  ++barrier.waiting;
  ++device().progress;
  barrier.release();
  while (barrier.passed == passed) pause();
}

Barrier& warp() { return device().warps[static_cast<size_t>(device().current / kWarp)]; }

[[noreturn]] void threads() {
  Device& d = device();
  for (;;) {
    (*d.body)();
    current().done = true;
    ++d.progress;
    for (Barrier* barrier : {&d.block, &warp()}) {
      --barrier->running;
      barrier->release();
    }
    pause();
  }
}

/// The current thread's next steps.
void go_on() {
  Device& d = device();
  Fiber& fiber = current();
  if (_setjmp(d.scheduler) != 0) return;
  if (fiber.stack) _longjmp(fiber.here, 1);
  fiber.stack = std::make_unique<char[]>(kStack);
  ucontext_t start;
  getcontext(&start);
  start.uc_stack.ss_sp = fiber.stack.get();
  start.uc_stack.ss_size = kStack;
  start.uc_link = nullptr;
  makecontext(&start, threads, 0);
  setcontext(&start);
}

void run_block(uint3 block, dim3 size, dim3 grid, size_t shared_bytes) {
  Device& d = device();
  std::fill_n(d.shared.begin(), shared_bytes, static_cast<unsigned char>(0xa5));  // nobody's leavings
  const int threads = static_cast<int>(size.x * size.y * size.z);
  d.block = {.running = threads};
  for (int t = 0; t < threads; t += kWarp) {
    d.warps[static_cast<size_t>(t / kWarp)] = {.running = std::min(kWarp, threads - t)};
  }
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = d.fibers[static_cast<size_t>(t)];
    const auto at = static_cast<unsigned>(t);
    fiber.place = {{at % size.x, at / size.x % size.y, at / size.x / size.y}, block, size, grid};
    fiber.done = false;
    fiber.open.clear();
    fiber.stages.clear();
  }
  while (d.block.running > 0) {
    const int64_t before = d.progress;
    // To and fro: no order may be needed that a barrier does not make.
    for (int t = 0; t < threads; ++t) {
      d.current = d.forwards ? t : threads - 1 - t;
      if (!current().done) go_on();
    }
    d.forwards = !d.forwards;
    if (d.progress == before) throw std::logic_error("threads of a block wait for different barriers");
  }
}

}  // namespace

const Place& place() { return current().place; }
int lane() { return device().current % kWarp; }
void* mailbox(int lane) { return device().mail[static_cast<size_t>(device().current / kWarp * kWarp + lane)].data(); }
void join_block() { wait(device().block); }
void join_warp() { wait(warp()); }

void begin_copy(uint32_t to, const void* from, size_t bytes, size_t valid) {
  current().open.push_back({to, from, bytes, valid});
}

void end_stage() {
  Fiber& fiber = current();
  fiber.stages.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void wait_for_stages(size_t left) {
  for (auto& stages = current().stages; stages.size() > left; stages.pop_front()) {
    for (const Copy& copy : stages.front()) {
      unsigned char* to = device().shared.data() + copy.to;
      std::memcpy(to, copy.from, copy.valid);
      std::memset(to + copy.valid, 0, copy.bytes - copy.valid);
    }
  }
}

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > kThreadsAtMost) throw std::logic_error("a block has no threads, or too many");
  if (grid.x * grid.y * grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) {
    throw std::logic_error("a grid has no blocks, or too many");
  }
  if (shared_bytes > device().shared.size()) throw std::logic_error("a block has too much shared memory");
  device().body = &body;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) run_block({x, y, z}, block, grid, shared_bytes);
    }
  }
}

}  // namespace qat::ops::cuda::emulation

namespace qat::ops::cuda {

unsigned char* dynamic_shared() { return emulation::device().shared.data(); }

Rows matrix_rows(uint32_t address) {
  std::memcpy(emulation::mailbox(emulation::lane()), &address, sizeof(address));
  emulation::join_warp();
  Rows rows;
  for (int lane = 0; lane < 32; ++lane) std::memcpy(&rows.at[lane], emulation::mailbox(lane), sizeof(address));
  emulation::join_warp();
  return rows;
}

namespace {

/// The fragments of mma.m16n8k32 of bytes and of mma.m16n8k16 of two bytes lie alike (PTX ISA, "Matrix Fragments"): the
/// depth has eight words. add(acc, a, b) adds the products of two words.
template <class Acc, class Add>
void multiply_words(Acc (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Add& add) {
  struct Words {
    uint32_t a[4], b[2];
  };
  const Words mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const auto of = [](int lane) { return static_cast<const Words*>(emulation::mailbox(lane)); };
  std::memcpy(emulation::mailbox(emulation::lane()), &mine, sizeof(mine));
  emulation::join_warp();
  const int lane = emulation::lane();
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4, column = lane % 4 * 2 + e % 2;
    for (int depth = 0; depth < 8; ++depth) {
      const uint32_t left = of(row * 4 + depth % 4)->a[e / 2 + depth / 4 * 2];
      acc[e] = add(acc[e], left, of(column * 4 + depth % 4)->b[depth / 4]);
    }
  }
  emulation::join_warp();
}

}  // namespace

void multiply_add(int32_t (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_words(acc, a, b0, b1, [](int32_t sum, uint32_t left, uint32_t right) { return dot(left, right, sum); });
}

void multiply_add(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_words(acc, a, b0, b1, [](float sum, uint32_t left, uint32_t right) {
    sum += __uint_as_float(left << 16) * __uint_as_float(right << 16);
    return sum + __uint_as_float(left & 0xffff0000) * __uint_as_float(right & 0xffff0000);
  });
}

}  // namespace qat::ops::cuda

extern "C" {

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (qat::ops::cuda::emulation::capturing()) return cudaErrorStreamCaptureUnsupported;
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  if (qat::ops::cuda::emulation::capturing()) return cudaErrorStreamCaptureUnsupported;
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (qat::ops::cuda::emulation::capturing()) return cudaErrorStreamCaptureUnsupported;
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 8;  // multiprocessors
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the emulated device"; }
int qat_cuda_device_count(char*, size_t) { return 1; }

}  // extern "C"
