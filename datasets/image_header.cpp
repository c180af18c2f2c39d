#include "datasets/image_header.h"

#include <cstdlib>

namespace qat::datasets {
namespace {

using Header = std::optional<ImageHeader>;

// Numbers at an offset; 0 beyond the end, which no size is.
class Bytes {
 public:
  explicit Bytes(std::string_view bytes) : bytes_(bytes) {}

  size_t size() const { return bytes_.size(); }

  uint64_t little(uint64_t offset, int width) const {
    uint64_t value = 0;
    for (int i = width - 1; i >= 0; --i) value = value << 8 | at(offset + static_cast<uint64_t>(i));
    return value;
  }
  uint64_t big(uint64_t offset, int width) const {
    uint64_t value = 0;
    for (int i = 0; i < width; ++i) value = value << 8 | at(offset + static_cast<uint64_t>(i));
    return value;
  }
  bool has(std::string_view text, size_t offset = 0) const {
    return bytes_.size() >= offset && bytes_.substr(offset).starts_with(text);
  }
  size_t find(char byte, size_t from) const { return bytes_.find(byte, from); }
  uint8_t at(uint64_t offset) const { return offset < bytes_.size() ? static_cast<uint8_t>(bytes_[offset]) : 0; }

 private:
  std::string_view bytes_;
};

Header sized(uint64_t height, uint64_t width, bool complete = true) {
  return ImageHeader{static_cast<int64_t>(height), static_cast<int64_t>(width), complete};
}

// ITU-T T.81, annex B: segments behind markers FF xx; entropy-coded data stuffs FF as FF 00.
Header jpeg(const Bytes& file) {
  Header header;
  for (size_t at = 2; (at = file.find('\xff', at)) != std::string_view::npos && at + 1 < file.size();) {
    const uint8_t marker = file.at(at + 1);
    if (marker == 0xff) {  // fill byte
      ++at;
      continue;
    }
    at += 2;
    if (marker == 0xd9) {
      if (header) header->complete = true;
      return header;
    }
    if (marker == 0x00 || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd7)) continue;  // stuffing, TEM, RSTn
    const bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (frame && !header) header = sized(file.big(at + 3, 2), file.big(at + 5, 2), false);
    at += file.big(at, 2);
  }
  return header;
}

Header webp(const Bytes& file) {
  if (file.has("VP8 ", 12)) return sized(file.little(28, 2) & 0x3fff, file.little(26, 2) & 0x3fff);
  if (file.has("VP8L", 12)) {
    const uint64_t bits = file.little(21, 4);
    return sized((bits >> 14 & 0x3fff) + 1, (bits & 0x3fff) + 1);
  }
  if (file.has("VP8X", 12)) return sized(file.little(27, 3) + 1, file.little(24, 3) + 1);
  return std::nullopt;
}

Header bmp(const Bytes& file) {
  if (file.little(14, 4) == 12) return sized(file.little(20, 2), file.little(18, 2));
  const auto height = static_cast<int32_t>(file.little(22, 4));  // negative: rows from top to bottom
  return sized(static_cast<uint64_t>(std::abs(int64_t{height})), file.little(18, 4));
}

Header pnm(const Bytes& file) {
  size_t at = 2;
  const auto number = [&] {
    while (at < file.size() && (file.at(at) == '#' || file.at(at) <= ' ')) {
      if (file.at(at) == '#') {
        const size_t end = file.find('\n', at);
        at = end == std::string_view::npos ? file.size() : end;
      } else {
        ++at;
      }
    }
    uint64_t value = 0;
    for (; at < file.size() && file.at(at) >= '0' && file.at(at) <= '9' && value < (uint64_t{1} << 32); ++at) {
      value = 10 * value + (file.at(at) - '0');
    }
    return value;
  };
  const uint64_t width = number();
  return sized(number(), width);
}

// The first image file directory's tags 256 (width) and 257 (length), each a SHORT or a LONG.
Header tiff(const Bytes& file, bool little) {
  const auto read = [&](uint64_t offset, int width) {
    return little ? file.little(offset, width) : file.big(offset, width);
  };
  const uint64_t directory = read(4, 4);
  uint64_t height = 0, width = 0;
  for (uint64_t i = 0; i < read(directory, 2); ++i) {
    const uint64_t entry = directory + 2 + 12 * i;
    const uint64_t value = read(entry + 8, read(entry + 2, 2) == 3 ? 2 : 4);
    if (read(entry, 2) == 256) width = value;
    if (read(entry, 2) == 257) height = value;
  }
  return sized(height, width);
}

Header read(const Bytes& file) {
  using namespace std::string_view_literals;
  if (file.has("\xff\xd8")) return jpeg(file);
  if (file.has("\x89PNG\r\n\x1a\n")) return sized(file.big(20, 4), file.big(16, 4));
  if (file.has("RIFF") && file.has("WEBP", 8)) return webp(file);
  if (file.has("BM")) return bmp(file);
  if (file.at(0) == 'P' && file.at(1) >= '1' && file.at(1) <= '6') return pnm(file);
  if (file.has("II*\0"sv)) return tiff(file, true);
  if (file.has("MM\0*"sv)) return tiff(file, false);
  return std::nullopt;
}

}  // namespace

std::optional<ImageHeader> read_image_header(std::string_view bytes) {
  const Header header = read(Bytes(bytes));
  return header && header->height > 0 && header->width > 0 ? header : std::nullopt;
}

}  // namespace qat::datasets
