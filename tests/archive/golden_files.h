// The checkpoint goldens: files and what must happen with them (README.md there).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/archive/bytes.h"
#include "core/base/files.h"
#include "core/base/safetensors.h"

namespace qat::golden {

using Json = nlohmann::json;

struct Case {
  std::string path;  // of the weights file
  Json expected;
};

/// QAT_CHECKPOINT_GOLDENS, or the tree's own.
inline std::string folder() {
  const char* given = std::getenv("QAT_CHECKPOINT_GOLDENS");
  return given != nullptr ? given : QAT_SOURCE_DIR "/tests/goldens/checkpoints";
}

/// Every *.expected.json of the folder, in alphabetical order.
inline std::vector<Case> cases() {
  constexpr std::string_view kSuffix = ".expected.json";
  std::vector<Case> cases;
  if (!std::filesystem::is_directory(folder())) return cases;
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    const std::string path = entry.path();
    if (!path.ends_with(kSuffix)) continue;
    cases.push_back({path.substr(0, path.size() - kSuffix.size()), Json::parse(read_file(path))});
  }
  std::ranges::sort(cases, {}, &Case::path);
  return cases;
}

/// FIPS 180-4, in lower-case hexadecimal digits.
inline std::string sha256(std::string_view bytes) {
  // Fractional parts of the cube and square roots of the first primes: 64 and 8 times 32 bits.
  std::array<uint32_t, 64> k{};
  std::array<uint32_t, 8> state{};
  uint32_t primes[64];
  uint32_t count = 0;
  for (uint32_t n = 2; count < 64; ++n) {
    if (std::all_of(primes, primes + count, [&](uint32_t p) { return n % p != 0; })) primes[count++] = n;
  }
  const auto fraction = [](long double root) {
    return static_cast<uint32_t>(std::floor((root - std::floor(root)) * 4294967296.0L));
  };
  for (size_t i = 0; i < 64; ++i) k[i] = fraction(std::cbrt(static_cast<long double>(primes[i])));
  for (size_t i = 0; i < 8; ++i) state[i] = fraction(std::sqrt(static_cast<long double>(primes[i])));

  std::string message(bytes);
  message += '\x80';
  message.resize((message.size() + 8 + 63) / 64 * 64 - 8, '\0');
  for (int i = 7; i >= 0; --i) message += static_cast<char>(bytes.size() * 8 >> (8 * i) & 0xff);
  for (size_t block = 0; block < message.size(); block += 64) {
    std::array<uint32_t, 64> w{};
    for (size_t i = 0; i < 64; ++i) {
      if (i < 16) {
        w[i] = __builtin_bswap32(static_cast<uint32_t>(archive::get_number(message, block + 4 * i, 4)));
        continue;
      }
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    std::array<uint32_t, 8> v = state;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t s1 = std::rotr(v[4], 6) ^ std::rotr(v[4], 11) ^ std::rotr(v[4], 25);
      const uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
      const uint32_t s0 = std::rotr(v[0], 2) ^ std::rotr(v[0], 13) ^ std::rotr(v[0], 22);
      const uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      v = {t1 + t2, v[0], v[1], v[2], v[3] + t1, v[4], v[5], v[6]};
    }
    for (size_t i = 0; i < 8; ++i) state[i] += v[i];
  }
  std::string digits;
  for (const uint32_t word : state) digits += fmt::format("{:08x}", word);
  return digits;
}

/// IEEE half precision, from its definition.
inline double half(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
}

/// Element `i` of a view of any dtype.
inline double element(const TensorView& view, size_t i) {
  const auto load = [&]<class T>(T value) {
    std::memcpy(&value, static_cast<const char*>(view.data) + i * sizeof(T), sizeof(T));
    return value;
  };
  if (view.dtype == "F64") return load(double{});
  if (view.dtype == "F32") return load(float{});
  if (view.dtype == "F16") return half(load(uint16_t{}));
  if (view.dtype == "BF16") return std::bit_cast<float>(uint32_t{load(uint16_t{})} << 16);
  if (view.dtype == "I64") return static_cast<double>(load(int64_t{}));
  if (view.dtype == "I32") return load(int32_t{});
  if (view.dtype == "I16") return load(int16_t{});
  if (view.dtype == "I8") return load(int8_t{});
  return load(uint8_t{});  // U8, BOOL
}

}  // namespace qat::golden
