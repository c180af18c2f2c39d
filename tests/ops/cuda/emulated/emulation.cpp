// The emulation's threads, and a device whose memory is that of the CPU.
#include "tests/ops/cuda/emulated/emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <array>
#include <cstdio>
#include <cstdlib>
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

/// One of the threads of all blocks, one after another. A context starts it; jumps, which need no system call, go on.
struct Fiber {
  jmp_buf here;
  std::unique_ptr<char[]> stack;
  Place place;
  bool done = true;
};

struct Device {
  jmp_buf scheduler;
  std::array<Fiber, kThreadsAtMost> fibers;
  std::array<std::array<char, 16>, kThreadsAtMost> mail;
  std::array<Barrier, kThreadsAtMost / kWarp> warps;
  Barrier block;
  int current = 0;
  int64_t progress = 0;
  const std::function<void()>* body = nullptr;
};

Device& device() {
  static Device instance;
  return instance;
}

void pause() {
  Device& d = device();
  if (_setjmp(d.fibers[static_cast<size_t>(d.current)].here) == 0) _longjmp(d.scheduler, 1);
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
    d.fibers[static_cast<size_t>(d.current)].done = true;
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
  Fiber& fiber = d.fibers[static_cast<size_t>(d.current)];
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

void run_block(uint3 block, dim3 size) {
  Device& d = device();
  const int threads = static_cast<int>(size.x * size.y * size.z);
  d.block = {.running = threads};
  for (int t = 0; t < threads; t += kWarp) {
    d.warps[static_cast<size_t>(t / kWarp)] = {.running = std::min(kWarp, threads - t)};
  }
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = d.fibers[static_cast<size_t>(t)];
    const auto at = static_cast<unsigned>(t);
    fiber.place = {{at % size.x, at / size.x % size.y, at / size.x / size.y}, block};
    fiber.done = false;
  }
  while (d.block.running > 0) {
    const int64_t before = d.progress;
    for (d.current = 0; d.current < threads; ++d.current) {
      if (!d.fibers[static_cast<size_t>(d.current)].done) go_on();
    }
    if (d.progress == before) throw std::logic_error("threads of a block wait for different barriers");
  }
}

}  // namespace

const Place& place() { return device().fibers[static_cast<size_t>(device().current)].place; }
int lane() { return device().current % kWarp; }
void* mailbox(int lane) { return device().mail[static_cast<size_t>(device().current / kWarp * kWarp + lane)].data(); }
void join_block() { wait(device().block); }
void join_warp() { wait(warp()); }

void run(dim3 grid, dim3 block, const std::function<void()>& body) {
  if (block.x * block.y * block.z > kThreadsAtMost) throw std::logic_error("a block has too many threads");
  device().body = &body;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) run_block({x, y, z}, block);
    }
  }
}

}  // namespace qat::ops::cuda::emulation

extern "C" {

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the emulated device"; }
int qat_cuda_device_count(char*, size_t) { return 1; }

}  // extern "C"
