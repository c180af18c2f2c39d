#include "core/ops/cuda/move.h"

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "tests/ops/cuda/gpu.h"

namespace qat::ops::cuda {
namespace {

class CudaMove : public GpuTest {};

template <class T>
void expect_gathered(int64_t pixels, int64_t x_channels, const std::vector<int32_t>& from, int64_t x_shift,
                     int64_t y_shift) {
  const auto y_channels = static_cast<int64_t>(from.size());
  SCOPED_TRACE(fmt::format("{} pixels, {} of {} channels from {} on, {} bytes each, shifts {} and {}", pixels,
                           y_channels, x_channels, from[0], sizeof(T), x_shift, y_shift));
  const auto x = drawn<T>(pixels * x_channels, pixels, std::uniform_int_distribution<int>(1, 255));
  std::vector<T> y(pixels * y_channels);
  for (int64_t i = 0; i < pixels * y_channels; ++i) {
    const int32_t source = from[i % y_channels];
    y[i] = source < 0 ? T{0} : x[i / y_channels * x_channels + source];
  }
  const Array<T> in(x, x_shift), out(pixels * y_channels, y_shift);
  const Array<int32_t> list(from, y_shift);
  gather_channels(in.data(), pixels, x_channels, list.data(), y_channels, out.data(), nullptr);
  expect_equal(out.host(), y);
}

void expect_all(int64_t pixels, int64_t x_channels, const std::vector<int32_t>& from) {
  for (const int64_t x_shift : {0, 1}) {
    for (const int64_t y_shift : {0, 1}) {
      expect_gathered<uint8_t>(pixels, x_channels, from, x_shift, y_shift);
      expect_gathered<float>(pixels, x_channels, from, x_shift, y_shift);
    }
  }
}

TEST_F(CudaMove, Slices) {
  for (const int64_t pixels : {1, 5, 300}) {
    for (const int64_t x_channels : {1, 7, 16, 24, 29}) {
      for (const int64_t count : {1, 3, 8, 16}) {
        for (const int64_t begin : {0, 1, 4, 8}) {
          if (begin + count > x_channels) continue;
          std::vector<int32_t> from(count);
          std::iota(from.begin(), from.end(), static_cast<int32_t>(begin));
          expect_all(pixels, x_channels, from);
        }
      }
    }
  }
}

TEST_F(CudaMove, ShufflesAndTheirGradients) {
  for (const int64_t groups : {2, 4}) {
    for (const int64_t depth : {1, 3, 8, 10}) {
      // Channel c of the output is group c % groups, channel c / groups of it.
      std::vector<int32_t> from(groups * depth), back(groups * depth);
      for (int64_t c = 0; c < groups * depth; ++c) {
        from[c] = static_cast<int32_t>(c % groups * depth + c / groups);
        back[from[c]] = static_cast<int32_t>(c);
      }
      expect_all(33, groups * depth, from);
      expect_all(33, groups * depth, back);
      const auto x = drawn_codes<uint8_t>(33 * groups * depth, 4);
      const Array<uint8_t> in(x), shuffled(33 * groups * depth), again(33 * groups * depth);
      const Array<int32_t> there(from), here(back);
      gather_channels(in.data(), 33, groups * depth, there.data(), groups * depth, shuffled.data(), nullptr);
      gather_channels(shuffled.data(), 33, groups * depth, here.data(), groups * depth, again.data(), nullptr);
      expect_equal(again.host(), x);
    }
  }
}

TEST_F(CudaMove, WhereNothingCameFromIsZero) {
  for (const int64_t width : {3, 8, 24, 31}) {
    for (const int64_t begin : {0, 1, 2}) {
      std::vector<int32_t> from(width, -1);
      std::iota(from.begin() + begin, from.end(), 0);
      expect_all(21, width, from);
    }
    expect_all(21, 1, std::vector<int32_t>(width, -1));
  }
  // Eight neighbours but for one of them, each in turn.
  for (int k = 0; k < 8; ++k) {
    std::vector<int32_t> from(16);
    std::iota(from.begin(), from.end(), 0);
    from[k] = k == 0 ? -1 : 15;
    expect_all(21, 16, from);
  }
}

TEST_F(CudaMove, ChannelsMayRepeat) {
  const auto drawn_list = drawn<int32_t>(40, 7, std::uniform_int_distribution<int>(-1, 12));
  expect_all(50, 13, drawn_list);
  expect_all(50, 13, std::vector<int32_t>(drawn_list.begin(), drawn_list.begin() + 11));
}

TEST_F(CudaMove, NothingIsLeftAsItIs) {
  const Array<int32_t> from({2, 1, 0});
  const Array<float> x({1, 2, 3, 4}), y({7, 8, 9});
  gather_channels(x.data(), 0, 4, from.data(), 3, y.data(), nullptr);
  EXPECT_EQ(y.host(), (std::vector<float>{7, 8, 9}));
  const Array<uint8_t> codes({1, 2, 3}), moved({4, 5, 6});
  gather_channels(codes.data(), 1, 3, from.data(), 0, moved.data(), nullptr);
  EXPECT_EQ(moved.host(), (std::vector<uint8_t>{4, 5, 6}));
  // Not even an address is needed.
  EXPECT_NO_THROW(gather_channels<float>(nullptr, 0, 4, nullptr, 3, nullptr, nullptr));
}

TEST(CudaMoveArguments, RefusesNegativeSizes) {
  EXPECT_THROW(gather_channels<float>(nullptr, -1, 1, nullptr, 1, nullptr, nullptr), Error);
  EXPECT_THROW(gather_channels<uint8_t>(nullptr, -1, 1, nullptr, -1, nullptr, nullptr), Error);
}

}  // namespace
}  // namespace qat::ops::cuda
