#include "datasets/pixel_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "core/base/error.h"

namespace qat::datasets {
namespace {

using Table = std::array<uint8_t, 256>;

uint8_t clip(int64_t value) { return static_cast<uint8_t>(std::clamp<int64_t>(value, 0, 255)); }

void check_colours(const Image& image) {
  QAT_CHECK(image.channels == 1 || image.channels == 3, "expected an image of 1 or 3 channels, found {}",
            image.channels);
}

uint8_t blend(int degenerate, int value, float factor) {
  const float mixed = static_cast<float>(degenerate) + factor * static_cast<float>(value - degenerate);
  return static_cast<uint8_t>(std::clamp(mixed, 0.0F, 255.0F));
}

// Blends every pixel with the grey value that `degenerate` gives for it.
template <class Degenerate>
void enhance(Image& image, double factor, const Degenerate& degenerate) {
  const auto weight = static_cast<float>(factor);
  for (size_t i = 0; i < image.pixels.size(); i += static_cast<size_t>(image.channels)) {
    uint8_t* pixel = image.pixels.data() + i;
    const int grey = degenerate(pixel);
    for (int64_t c = 0; c < image.channels; ++c) pixel[c] = blend(grey, pixel[c], weight);
  }
}

void apply_table(Image& image, int64_t channel, const Table& table) {
  for (size_t i = static_cast<size_t>(channel); i < image.pixels.size(); i += static_cast<size_t>(image.channels)) {
    image.pixels[i] = table[image.pixels[i]];
  }
}

void apply_table(Image& image, const Table& table) {
  for (uint8_t& value : image.pixels) value = table[value];
}

Table make_table(const std::function<int64_t(int64_t)>& value) {
  Table table{};
  for (int64_t x = 0; x < 256; ++x) table[static_cast<size_t>(x)] = clip(value(x));
  return table;
}

std::array<int64_t, 256> histogram(const Image& image, int64_t channel) {
  std::array<int64_t, 256> counts{};
  for (size_t i = static_cast<size_t>(channel); i < image.pixels.size(); i += static_cast<size_t>(image.channels)) {
    ++counts[image.pixels[i]];
  }
  return counts;
}

// Hue, saturation and value of 0 to 255, fractions dropped.
struct Hsv {
  uint8_t hue = 0, saturation = 0, value = 0;
};

Hsv to_hsv(const uint8_t* rgb) {
  const uint8_t high = std::max({rgb[0], rgb[1], rgb[2]}), low = std::min({rgb[0], rgb[1], rgb[2]});
  if (high == low) return {0, 0, high};
  const auto range = static_cast<float>(high - low);
  const float saturation = range / static_cast<float>(high);
  const auto below = [&](int c) { return static_cast<float>(high - rgb[c]) / range; };
  const float r = below(0), g = below(1), b = below(2);
  float sixths = 0;
  if (rgb[0] == high) {
    sixths = b - g;
  } else if (rgb[1] == high) {
    sixths = static_cast<float>(2.0 + r - b);
  } else {
    sixths = static_cast<float>(4.0 + g - r);
  }
  const auto hue = static_cast<float>(std::fmod(sixths / 6.0 + 1.0, 1.0));
  return {clip(static_cast<int64_t>(hue * 255.0)), clip(static_cast<int64_t>(saturation * 255.0)), high};
}

void to_rgb(const Hsv& hsv, uint8_t* rgb) {
  const uint8_t v = hsv.value;
  if (hsv.saturation == 0) {
    rgb[0] = rgb[1] = rgb[2] = v;
    return;
  }
  const double sixths = hsv.hue * 6.0 / 255.0;
  const int sector = static_cast<int>(sixths);
  const auto part = static_cast<float>(sixths - sector);
  const float saturation = static_cast<float>(hsv.saturation) / 255.0F;
  const auto scaled = [&](double weight) { return clip(std::llround(v * weight)); };
  const uint8_t lowest = scaled(1.0 - saturation);
  const uint8_t falling = scaled(1.0 - saturation * part);
  const uint8_t rising = scaled(1.0 - saturation * (1.0 - part));
  const std::array<std::array<uint8_t, 3>, 6> sectors{{{v, rising, lowest},
                                                       {falling, v, lowest},
                                                       {lowest, v, rising},
                                                       {lowest, falling, v},
                                                       {rising, lowest, v},
                                                       {v, lowest, falling}}};
  std::copy_n(sectors[static_cast<size_t>(sector % 6)].data(), 3, rgb);
}

}  // namespace

uint8_t luma(const uint8_t* rgb) {
  return static_cast<uint8_t>((19595U * rgb[0] + 38470U * rgb[1] + 7471U * rgb[2] + 0x8000U) >> 16);
}

Image grayscale(const Image& image, int64_t channels) {
  check_colours(image);
  Image result = blank({image.height, image.width, channels});
  const int64_t count = image.height * image.width;
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* pixel = image.pixels.data() + i * image.channels;
    std::fill_n(result.pixels.data() + i * channels, channels, image.channels == 3 ? luma(pixel) : *pixel);
  }
  return result;
}

void adjust_brightness(Image& image, double factor) {
  enhance(image, factor, [](const uint8_t*) { return 0; });
}

void adjust_contrast(Image& image, double factor) {
  const Image grey = grayscale(image, 1);
  int64_t sum = 0;
  for (const uint8_t value : grey.pixels) sum += value;
  const double count = std::max(1.0, static_cast<double>(grey.pixels.size()));
  const int mean = static_cast<int>(static_cast<double>(sum) / count + 0.5);
  enhance(image, factor, [mean](const uint8_t*) { return mean; });
}

void adjust_saturation(Image& image, double factor) {
  check_colours(image);
  if (image.channels == 1) return;
  enhance(image, factor, [](const uint8_t* pixel) { return luma(pixel); });
}

void adjust_sharpness(Image& image, double factor) {
  const Image original = image;
  const auto weight = static_cast<float>(factor);
  const int64_t row = image.width * image.channels;
  for (int64_t y = 1; y + 1 < image.height; ++y) {
    for (int64_t i = image.channels; i + image.channels < row; ++i) {
      const uint8_t* centre = original.pixels.data() + y * row + i;
      int sum = 4 * *centre;  // 5 in all
      for (const int64_t dy : {-row, int64_t{0}, row}) {
        for (const int64_t dx : {-image.channels, int64_t{0}, image.channels}) sum += centre[dy + dx];
      }
      const int smooth = (2 * sum + 13) / 26;  // sum / 13, rounded; there are no ties
      image.pixels[static_cast<size_t>(y * row + i)] = blend(smooth, *centre, weight);
    }
  }
}

void adjust_hue(Image& image, double turns) {
  check_colours(image);
  if (image.channels == 1) return;
  const auto shift = static_cast<uint8_t>(static_cast<int>(turns * 255.0));
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    Hsv hsv = to_hsv(image.pixels.data() + i);
    hsv.hue = static_cast<uint8_t>(hsv.hue + shift);
    to_rgb(hsv, image.pixels.data() + i);
  }
}

void posterize(Image& image, int bits) {
  QAT_CHECK(bits >= 0 && bits <= 8, "posterize: expected 0 to 8 bits, found {}", bits);
  apply_table(image, make_table([bits](int64_t x) { return x & ~((1 << (8 - bits)) - 1); }));
}

void solarize(Image& image, double threshold) {
  apply_table(image, make_table([threshold](int64_t x) { return static_cast<double>(x) < threshold ? x : 255 - x; }));
}

void autocontrast(Image& image) {
  for (int64_t c = 0; c < image.channels; ++c) {
    const std::array<int64_t, 256> counts = histogram(image, c);
    const auto used = [](int64_t count) { return count != 0; };
    const int64_t low = std::find_if(counts.begin(), counts.end(), used) - counts.begin();
    const int64_t high = 255 - (std::find_if(counts.rbegin(), counts.rend(), used) - counts.rbegin());
    if (high <= low) continue;
    const double scale = 255.0 / static_cast<double>(high - low);
    const double offset = -static_cast<double>(low) * scale;
    apply_table(image, c,
                make_table([&](int64_t x) { return static_cast<int64_t>(static_cast<double>(x) * scale + offset); }));
  }
}

void equalize(Image& image) {
  for (int64_t c = 0; c < image.channels; ++c) {
    const std::array<int64_t, 256> counts = histogram(image, c);
    const auto last = std::find_if(counts.rbegin(), counts.rend(), [](int64_t count) { return count != 0; });
    if (last == counts.rend()) continue;
    const int64_t step = (image.height * image.width - *last) / 255;
    if (step == 0) continue;
    int64_t sum = step / 2;
    apply_table(image, c, make_table([&](int64_t x) {
                  const int64_t value = sum / step;
                  sum += counts[static_cast<size_t>(x)];
                  return value;
                }));
  }
}

}  // namespace qat::datasets
