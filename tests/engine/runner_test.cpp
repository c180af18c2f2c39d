// Runner: the same values as Engine::run, from memory that is allocated once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "core/base/error.h"
#include "core/engine/engine.h"
#include "core/engine/plan.h"
#include "core/integer/pixels.h"
#include "tests/integer/random_model.h"

namespace {
std::atomic<int64_t> allocations{0};

void* counted(size_t bytes, size_t alignment) {
  ++allocations;
  void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(size_t bytes) { return counted(bytes, 16); }
void* operator new[](size_t bytes) { return counted(bytes, 16); }
void* operator new(size_t bytes, std::align_val_t a) { return counted(bytes, static_cast<size_t>(a)); }
void* operator new[](size_t bytes, std::align_val_t a) { return counted(bytes, static_cast<size_t>(a)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return counted(bytes, 16); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return counted(bytes, 16); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace qat::engine {
namespace {

using integer::CodeType;
using integer::IntegerModel;
using integer::RandomModel;

RandomModel network(uint64_t seed) {
  return {3000 + seed,
          {.type = seed % 4 == 3 ? CodeType::kInt8 : CodeType::kUint8,
           .operators = 10,
           .overflow = seed % 4 == 1 ? integer::Overflow::kSaturate16 : integer::Overflow::kExact}};
}

TEST(Runner, GivesWhatTheEngineGivesAndAllocatesNothing) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    RandomModel random = network(seed);
    const Engine engine(random.model());
    const int64_t batch = 1 + static_cast<int64_t>(seed % 3);
    const std::vector<float> images = random.images(batch);
    const std::vector<Value> expected = engine.run({{.batch = batch, .codes = {}, .values = images}});
    for (const int threads : {1, 2}) {
      Runner runner(engine, batch, threads);
      int64_t made = 0;
      for (int repeat = 0; repeat < 3; ++repeat) {
        std::ranges::copy(images, runner.input_values().begin());
        const int64_t before = allocations;
        runner.run();
        made = allocations - before;
        EXPECT_THAT(runner.output_values(), testing::ElementsAreArray(expected[0].values));
        EXPECT_TRUE(runner.output_codes().empty());
      }
      if (threads == 1) {
        EXPECT_EQ(made, 0);
      }
    }
  }
}

TEST(Runner, TakesPixelsAndAllocatesNothing) {
  const IntegerModel model = integer::with_pixel_input(network(7).model());
  const Engine engine(model);
  Runner runner(engine, 2, 1);
  EXPECT_TRUE(runner.input_values().empty());
  std::vector<uint8_t> pixels(runner.input_codes().size());
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(37 * i);
  const std::vector<Value> expected = engine.run({{.batch = 2, .codes = pixels, .values = {}}});
  int64_t made = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::ranges::copy(pixels, runner.input_codes().begin());
    const int64_t before = allocations;
    runner.run();
    made = allocations - before;
    EXPECT_THAT(runner.output_values(), testing::ElementsAreArray(expected[0].values));
  }
  EXPECT_EQ(made, 0);
}

/// Tensors that are alive together do not overlap.
TEST(Plan, KeepsLivingTensorsApart) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    const RandomModel random = network(seed);
    const IntegerModel& m = random.model();
    const Plan plan = plan_memory(m, 2);
    const auto bytes = [&](size_t t) {
      return static_cast<size_t>(2 * m.tensors[t].size()) * (m.tensors[t].type == CodeType::kFloat32 ? 4 : 1);
    };
    const size_t end = m.nodes.size();
    std::vector<size_t> first(m.tensors.size(), 0), last(m.tensors.size(), 0);
    std::vector<int> same(m.tensors.size());
    size_t sum = 0;
    for (size_t t = 0; t < same.size(); ++t) same[t] = static_cast<int>(t), sum += bytes(t) + 2 * kAlignment;
    for (size_t n = 0; n < end; ++n) {
      first[static_cast<size_t>(m.nodes[n].output)] = last[static_cast<size_t>(m.nodes[n].output)] = n;
      for (const int x : m.nodes[n].inputs) last[static_cast<size_t>(x)] = n;
      if (plan.is_alias[n] != 0)
        same[static_cast<size_t>(m.nodes[n].output)] = same[static_cast<size_t>(m.nodes[n].inputs[0])];
    }
    for (const int y : m.outputs) last[static_cast<size_t>(y)] = end;
    for (size_t a = 0; a < same.size(); ++a) {
      EXPECT_EQ(plan.offset[a] % kAlignment, 0u);
      EXPECT_LE(plan.offset[a] + bytes(a), plan.bytes);
      for (size_t b = 0; b < a; ++b) {
        if (same[a] == same[b]) {
          EXPECT_EQ(plan.offset[a], plan.offset[b]);
          continue;
        }
        if (last[a] < first[b] || last[b] < first[a]) continue;
        const bool apart = plan.offset[a] + bytes(a) <= plan.offset[b] || plan.offset[b] + bytes(b) <= plan.offset[a];
        EXPECT_TRUE(apart) << m.tensors[a].name << " and " << m.tensors[b].name;
      }
    }
    EXPECT_LE(plan.bytes, sum);
  }
}

TEST(Runner, RefusesBatchesThatAreNone) {
  const RandomModel random = network(1);
  const Engine engine(random.model());
  EXPECT_THROW(Runner(engine, 0), Error);
  EXPECT_THROW(Runner(engine, -1), Error);
  EXPECT_THROW(Runner(engine, int64_t{1} << 60), Error);
  EXPECT_THROW(Runner(engine, 1, -1), Error);
}

}  // namespace
}  // namespace qat::engine
