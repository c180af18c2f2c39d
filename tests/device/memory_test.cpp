#include "core/device/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  program.run({});
  EXPECT_EQ(places[0], places[2]);
  EXPECT_NE(places[0], places[1]);
  // Two of the large ones at a time, and the small one all the time, in multiples of 256 bytes.
  EXPECT_EQ(program.size(), 2 * 4096 + 256);
  for (const void* place : places) EXPECT_EQ(reinterpret_cast<uintptr_t>(place) % kAlignment, 0U);
}

/// Bytes of a stream, set after what was set before has been copied aside.
TEST_F(DeviceMemoryTest, WhatIsUsedAsideIsNobodyElsesUntilItIsJoined) {
  const Stream stream, aside;
  const ops::cuda::Array<uint8_t> copies(std::vector<uint8_t>(3 * 256, 0));
  Program program;
  const auto set = [&](const char* name, Buffer buffer, uint8_t value) {
    program.add(name, {buffer}, [=](const Program::Run& run) {
      check(cudaMemsetAsync(run.at<uint8_t>(buffer), value, 256, run.stream), "setting");
    });
  };
  const auto copy_aside = [&](const char* name, Buffer buffer, int64_t place) {
    program.add_aside(name, {buffer}, [=, to = copies.data() + place * 256](const Program::Run& run) {
      check(cudaMemcpyAsync(to, run.at<uint8_t>(buffer), 256, cudaMemcpyDeviceToDevice, run.stream), "copying");
    });
  };
  const auto one = [&] { return program.make<uint8_t>(256); };
  const Buffer a = one(), b = one(), c = one(), d = one(), e = one();
  set("a", a, 1);
  copy_aside("copy a", a, 0);
  set("b", b, 2);  // beside the copy of a
  copy_aside("copy b", b, 1);
  set("c", c, 3);  // a has been joined, b has not
  set("d", d, 4);
  copy_aside("copy d", d, 2);
  set("e", e, 5);
  program.join();
  program.add("last", {}, [=, at = copies.data()](const Program::Run& run) {
    check(cudaMemcpyAsync(at, at + 2 * 256, 128, cudaMemcpyDeviceToDevice, run.stream), "copying");
  });
  program.plan();
  EXPECT_EQ(program.size(), 2 * 256);
  std::vector<uint8_t> expected(3 * 256, 4);
  std::fill_n(expected.begin() + 128, 128, 1);
  std::fill_n(expected.begin() + 256, 256, 2);
  for (const bool recorded : {false, true}) {
    check(cudaMemsetAsync(copies.data(), 0, 3 * 256, stream), "setting");
    const auto work = [&] { program.run({stream, aside}); };
    if (recorded) {
      Graph(stream, work).launch(stream);
    } else {
      work();
    }
    check(cudaStreamSynchronize(stream), "waiting");
    EXPECT_EQ(copies.host(), expected) << recorded;
  }
}

TEST_F(DeviceMemoryTest, AFailureLeavesNothingAsideAndTheStreamFree) {
  const Stream stream, aside;
  const ops::cuda::Array<uint8_t> bytes(std::vector<uint8_t>(256, 0));
  Program program;
  program.add_aside("set", {}, [at = bytes.data()](const Program::Run& run) {
    check(cudaMemsetAsync(at, 7, 256, run.stream), "setting");
  });
  program.add("fail", {}, [](const Program::Run&) { throw Error("no"); });
  program.plan();
  const auto work = [&] { program.run({stream, aside}); };
  EXPECT_THROW(Graph(stream, work), Error);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_THROW(work(), Error);
  check(cudaStreamSynchronize(stream), "waiting");  // which has joined the other one
  EXPECT_EQ(bytes.host(), std::vector<uint8_t>(256, 7));
  const Graph after(stream, [&] { check(cudaMemsetAsync(bytes.data(), 9, 256, stream), "setting"); });
  after.launch(stream);
  check(cudaStreamSynchronize(stream), "waiting");
  EXPECT_EQ(bytes.host(), std::vector<uint8_t>(256, 9));
}

TEST_F(DeviceMemoryTest, WhatBackwardNeedsIsCounted) {
  Program program;
  const Buffer a = program.make<uint8_t>(512), b = program.make<uint8_t>(1024), c = program.make<uint8_t>(2048);
  const auto nothing = [](const Program::Run&) {};
  program.add("forward", {a, b}, nothing);
  program.end_forward();
  program.add("backward", {b, c}, nothing);
  program.keep(100);
  program.plan();
  EXPECT_EQ(program.kept_size(), 1024 + 100);
}

TEST_F(DeviceMemoryTest, AnOperationMustNameWhatItTouches) {
  Program program;
  const Buffer a = program.make<float>(8), b = program.make<float>(8);
  program.add("first", {a}, [=](const Program::Run& run) { run.at<float>(b); });
  program.add("second", {b}, [](const Program::Run&) {});
  program.plan();
  try {
    program.run({});
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
  const Stream stream;
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
}

}  // namespace
}  // namespace qat::device
