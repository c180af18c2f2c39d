// Reads TensorBoard's event files by the definitions of their parts, for tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/base/files.h"

namespace qat::test {

/// Bit by bit, in the order in which RFC 3720 defines it: the polynomial from its highest coefficient, each byte from
/// its lowest bit, the result reversed.
inline uint32_t crc_by_division(const std::string& bytes) {
  uint32_t remainder = ~0U;
  for (const char c : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool in = static_cast<unsigned char>(c) >> bit & 1;
      const bool out = remainder >> 31;
      remainder <<= 1;
      if (in != out) remainder ^= 0x1edc6f41U;
    }
  }
  uint32_t reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (remainder >> bit & 1) << (31 - bit);
  return ~reversed;
}

inline uint32_t mask_of(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8U; }

template <class Number>
Number number_at(const std::string& bytes, size_t at) {
  Number number{};
  EXPECT_LE(at + sizeof number, bytes.size());
  std::memcpy(&number, bytes.data() + at, sizeof number);
  return number;
}

inline std::vector<std::string> records_of(const std::string& path) {
  const std::string bytes = read_file(path);
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    const auto length = number_at<uint64_t>(bytes, at);
    EXPECT_EQ(number_at<uint32_t>(bytes, at + 8), mask_of(crc_by_division(bytes.substr(at, 8))));
    records.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(number_at<uint32_t>(bytes, at + 12 + length), mask_of(crc_by_division(records.back())));
    at += 12 + length + 4;
  }
  return records;
}

/// The fields of a message: number to values, each as its bytes (a varint as 8 of them).
using Fields = std::multimap<int, std::string>;

inline uint64_t read_varint(const std::string& bytes, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.at(at++));
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
}

inline Fields fields_of(const std::string& message) {
  Fields fields;
  for (size_t at = 0; at < message.size();) {
    const uint64_t key = read_varint(message, at);
    size_t size = 0;
    switch (key & 7) {
      case 0: {
        const uint64_t value = read_varint(message, at);
        fields.emplace(key >> 3, std::string(reinterpret_cast<const char*>(&value), sizeof value));
        continue;
      }
      case 1:
        size = 8;
        break;
      case 2:
        size = read_varint(message, at);
        break;
      case 5:
        size = 4;
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
    }
    EXPECT_LE(at + size, message.size());
    fields.emplace(key >> 3, message.substr(at, size));
    at += size;
  }
  return fields;
}

inline std::string field(const Fields& fields, int number) {
  EXPECT_EQ(fields.count(number), 1U) << "field " << number;
  return fields.count(number) == 1 ? fields.find(number)->second : std::string();
}
inline double real(const Fields& fields, int number) { return number_at<double>(field(fields, number), 0); }
inline int64_t step_of(const Fields& event) { return event.count(2) == 0 ? 0 : number_at<int64_t>(field(event, 2), 0); }
inline std::vector<double> reals(const Fields& fields, int number) {
  const std::string bytes = field(fields, number);
  std::vector<double> values(bytes.size() / 8);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace qat::test
