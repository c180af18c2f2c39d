#include "datasets/resample.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace qat::datasets {
namespace {

constexpr int kWeightBits = 22;

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

double keys_cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

// For each output position, the input positions first, first + 1, ... and their integer weights, which sum to about
// 2^22.
struct Taps {
  struct Run {
    int64_t first = 0;
    std::vector<int32_t> weights;
  };
  std::vector<Run> runs;

  Taps(int64_t input, int64_t output, Interpolation interpolation) {
    const bool cubic = interpolation == Interpolation::kBicubic;
    const double scale = static_cast<double>(input) / static_cast<double>(output);
    const double stretch = std::max(1.0, scale);
    const double support = (cubic ? 2.0 : 1.0) * stretch;
    const double shrink = 1.0 / stretch;
    runs.reserve(static_cast<size_t>(output));
    std::vector<double> raw;
    for (int64_t i = 0; i < output; ++i) {
      const double centre = (static_cast<double>(i) + 0.5) * scale;
      const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
      const int64_t end = std::min(input, static_cast<int64_t>(centre + support + 0.5));
      raw.clear();
      double sum = 0.0;
      for (int64_t at = first; at < end; ++at) {
        const double x = (static_cast<double>(at) - centre + 0.5) * shrink;
        raw.push_back(cubic ? keys_cubic(x) : triangle(x));
        sum += raw.back();
      }
      Run run{first, {}};
      for (const double weight : raw) {
        const double scaled = (sum != 0.0 ? weight / sum : weight) * (1 << kWeightBits);
        run.weights.push_back(static_cast<int32_t>(scaled + (scaled < 0.0 ? -0.5 : 0.5)));
      }
      runs.push_back(std::move(run));
    }
  }
};

constexpr int32_t kHalf = 1 << (kWeightBits - 1);

Image filter_rows(const Image& image, int64_t width, Interpolation interpolation) {
  const Taps taps(image.width, width, interpolation);
  Image result = blank({image.height, width, image.channels});
  uint8_t* out = result.pixels.data();
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* row = image.pixels.data() + y * image.width * image.channels;
    for (const Taps::Run& run : taps.runs) {
      for (int64_t c = 0; c < image.channels; ++c) {
        const uint8_t* in = row + run.first * image.channels + c;
        int32_t sum = kHalf;
        for (const int32_t weight : run.weights) {
          sum += weight * *in;
          in += image.channels;
        }
        *out++ = rounded(sum);
      }
    }
  }
  return result;
}

Image filter_columns(const Image& image, int64_t height, Interpolation interpolation) {
  const Taps taps(image.height, height, interpolation);
  Image result = blank({height, image.width, image.channels});
  const int64_t row = image.width * image.channels;
  std::vector<int32_t> sums(static_cast<size_t>(row));
  uint8_t* out = result.pixels.data();
  for (const Taps::Run& run : taps.runs) {
    std::fill(sums.begin(), sums.end(), kHalf);
    const uint8_t* in = image.pixels.data() + run.first * row;
    for (const int32_t weight : run.weights) {
      for (int64_t i = 0; i < row; ++i) sums[static_cast<size_t>(i)] += weight * in[i];
      in += row;
    }
    for (const int32_t sum : sums) *out++ = rounded(sum);
  }
  return result;
}

// The input position of each output position. Pillow adds up the step, so its rounding errors do, too.
std::vector<int64_t> nearest_positions(int64_t input, int64_t output) {
  const double step = static_cast<double>(input) / static_cast<double>(output);
  std::vector<int64_t> positions;
  double at = step * 0.5;
  for (int64_t i = 0; i < output; ++i) {
    positions.push_back(std::min(input - 1, static_cast<int64_t>(at)));
    at += step;
  }
  return positions;
}

Image resize_nearest(const Image& image, int64_t height, int64_t width) {
  const std::vector<int64_t> rows = nearest_positions(image.height, height);
  const std::vector<int64_t> columns = nearest_positions(image.width, width);
  Image result = blank({height, width, image.channels});
  uint8_t* out = result.pixels.data();
  for (const int64_t y : rows) {
    for (const int64_t x : columns) {
      out = std::copy_n(image.pixels.data() + (y * image.width + x) * image.channels, image.channels, out);
    }
  }
  return result;
}

// Pillow walks through an affine map in 16.16 fixed point.
void warp_nearest(const Image& image, const AffineMap& map, Image& result) {
  const auto fixed = [](double value) { return static_cast<int64_t>(std::floor(value * 65536.0 + 0.5)); };
  const int64_t a = fixed(map[0]), b = fixed(map[1]), d = fixed(map[3]), e = fixed(map[4]);
  int64_t row_x = fixed(map[2] + map[0] * 0.5 + map[1] * 0.5);
  int64_t row_y = fixed(map[5] + map[3] * 0.5 + map[4] * 0.5);
  uint8_t* out = result.pixels.data();
  for (int64_t y = 0; y < image.height; ++y, row_x += b, row_y += e) {
    int64_t at_x = row_x, at_y = row_y;
    for (int64_t x = 0; x < image.width; ++x, at_x += a, at_y += d, out += image.channels) {
      const int64_t from_x = at_x >> 16, from_y = at_y >> 16;
      if (from_x < 0 || from_x >= image.width || from_y < 0 || from_y >= image.height) continue;
      std::copy_n(image.pixels.data() + (from_y * image.width + from_x) * image.channels, image.channels, out);
    }
  }
}

void warp_bilinear(const Image& image, const AffineMap& map, Image& result) {
  const auto pixel = [&](int64_t y, int64_t x) {
    x = std::clamp<int64_t>(x, 0, image.width - 1);
    return image.pixels.data() + (y * image.width + x) * image.channels;
  };
  uint8_t* out = result.pixels.data();
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x, out += image.channels) {
      const double centre_x = static_cast<double>(x) + 0.5, centre_y = static_cast<double>(y) + 0.5;
      double at_x = map[0] * centre_x + map[1] * centre_y + map[2];
      double at_y = map[3] * centre_x + map[4] * centre_y + map[5];
      if (at_x < 0.0 || at_x >= static_cast<double>(image.width) || at_y < 0.0 ||
          at_y >= static_cast<double>(image.height)) {
        continue;
      }
      at_x -= 0.5;
      at_y -= 0.5;
      const auto left = static_cast<int64_t>(std::floor(at_x)), top = static_cast<int64_t>(std::floor(at_y));
      const double dx = at_x - static_cast<double>(left), dy = at_y - static_cast<double>(top);
      const int64_t upper = std::max<int64_t>(0, top);
      const int64_t lower = top + 1 < image.height ? top + 1 : upper;
      for (int64_t c = 0; c < image.channels; ++c) {
        const auto along = [&](int64_t row) {
          const double from = pixel(row, left)[c], to = pixel(row, left + 1)[c];
          return from + (to - from) * dx;
        };
        const double above = along(upper), below = along(lower);
        out[c] = static_cast<uint8_t>(above + (below - above) * dy);
      }
    }
  }
}

}  // namespace

Image resize(const Image& image, int64_t height, int64_t width, Interpolation interpolation) {
  QAT_CHECK(image.height >= 1 && image.width >= 1 && height >= 1 && width >= 1,
            "cannot resize an image of {}x{} to {}x{}", image.height, image.width, height, width);
  if (interpolation == Interpolation::kNearest) return resize_nearest(image, height, width);
  if (width == image.width) {
    return height == image.height ? image : filter_columns(image, height, interpolation);
  }
  Image rows = filter_rows(image, width, interpolation);
  return height == image.height ? rows : filter_columns(rows, height, interpolation);
}

Image warp(const Image& image, const AffineMap& map, Interpolation interpolation, std::span<const uint8_t> fill) {
  Image result = blank(image.shape());
  for (size_t i = 0; i < result.pixels.size(); ++i) {
    result.pixels[i] = fill[fill.size() == 1 ? 0 : i % static_cast<size_t>(image.channels)];
  }
  if (interpolation == Interpolation::kNearest) {
    warp_nearest(image, map, result);
  } else {
    QAT_CHECK(interpolation == Interpolation::kBilinear, "warp: expected nearest or bilinear interpolation");
    warp_bilinear(image, map, result);
  }
  return result;
}

Image rotate(const Image& image, double degrees, Interpolation interpolation, std::span<const uint8_t> fill) {
  const double angle = -degrees * std::numbers::pi / 180.0;
  // To 15 decimals, so that right angles are exact.
  const auto tidy = [](double value) { return std::round(value * 1e15) / 1e15; };
  const double cosine = tidy(std::cos(angle)), sine = tidy(std::sin(angle));
  const double x = static_cast<double>(image.width) / 2.0, y = static_cast<double>(image.height) / 2.0;
  return warp(image, {cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y}, interpolation,
              fill);
}

}  // namespace qat::datasets
