#include "core/device/memory.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/device/graph.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::device {
namespace {

class DeviceMemoryTest : public ops::cuda::GpuTest {};

TEST_F(DeviceMemoryTest, BuffersShareMemoryWhereTheyAreNeverAliveTogether) {
  Program program;
  const Buffer a = program.make<float>(1000), b = program.make<float>(1000), c = program.make<float>(1000),
               d = program.make<float>(10);
  std::array<const void*, 4> places{};
  const auto note = [&](Buffer buffer, size_t at) {
    return [&places, buffer, at](const Program::Run& run) { places[at] = run.at<float>(buffer); };
  };
  program.add("a", {a, d}, note(a, 0));
  program.add("b", {a, b}, note(b, 1));
  program.add("c", {b, c}, note(c, 2));
  program.add("d", {c, d, Buffer()}, note(d, 3));
  program.plan();
  program.run(nullptr);
  EXPECT_EQ(places[0], places[2]);
  EXPECT_NE(places[0], places[1]);
  // Two of the large ones at a time, and the small one all the time, in multiples of 256 bytes.
  EXPECT_EQ(program.size(), 2 * 4096 + 256);
  for (const void* place : places) EXPECT_EQ(reinterpret_cast<uintptr_t>(place) % kAlignment, 0U);
}

TEST_F(DeviceMemoryTest, AnOperationMustNameWhatItTouches) {
  Program program;
  const Buffer a = program.make<float>(8), b = program.make<float>(8);
  program.add("first", {a}, [=](const Program::Run& run) { run.at<float>(b); });
  program.add("second", {b}, [](const Program::Run&) {});
  program.plan();
  try {
    program.run(nullptr);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "first: touches memory that it did not name");
  }
}

TEST_F(DeviceMemoryTest, HostMemoryHasOneCopy) {
  Arena arena;
  State state(arena);
  std::vector<float> values{1, 2, 3};
  const HostMemory host{values.data(), 12};
  float* there = state.at<float>(host);
  EXPECT_EQ(state.at<float>(host), there);
  EXPECT_EQ(state.at<float>({}), nullptr);
  EXPECT_THROW(state.at<float>({values.data(), 8}), Error);

  state.upload_new();
  values = {4, 5, 6};
  state.upload_new();  // it is not new any more
  state.download();
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3}));
  values = {7, 8, 9};
  state.upload();
  values = {0, 0, 0};
  state.download();
  EXPECT_EQ(values, (std::vector<float>{7, 8, 9}));
  EXPECT_EQ(arena.size() % 256, 0);
}

TEST_F(DeviceMemoryTest, AGraphRepeatsItsWorkAndNothingRunsWhileItIsRecorded) {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  const ops::cuda::Array<uint8_t> bytes(std::vector<uint8_t>(16, 1));
  {
    const Graph graph(stream, [&] { check(cudaMemsetAsync(bytes.data(), 7, 16, stream), "setting"); });
    check(cudaStreamSynchronize(stream), "waiting");
    EXPECT_EQ(bytes.host(), std::vector<uint8_t>(16, 1));
    graph.launch(stream);
    check(cudaStreamSynchronize(stream), "waiting");
    EXPECT_EQ(bytes.host(), std::vector<uint8_t>(16, 7));
  }
  EXPECT_THROW(Graph(stream, [] { throw Error("no"); }), Error);
  const Graph after(stream, [] {});  // the stream is free again
  check(cudaStreamDestroy(stream), "a stream");
}

}  // namespace
}  // namespace qat::device
