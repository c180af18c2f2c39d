#include "core/integer/code_packing.h"

#include <algorithm>
#include <numeric>

#include "core/base/error.h"

namespace qat::integer {

std::optional<CodePacking> packing_of(std::span<const int16_t> codes) {
  if (codes.empty()) return std::nullopt;
  const auto [lowest, highest] = std::ranges::minmax(codes);
  int64_t step = 0;
  for (const int16_t code : codes) {
    step = std::gcd(step, int64_t{code} - lowest);
    if (step == 1) break;
  }
  step = std::max<int64_t>(step, 1);
  const int64_t values = (int64_t{highest} - lowest) / step + 1;
  for (const int64_t bits : {1, 2, 4}) {
    if (values <= int64_t{1} << bits) return CodePacking{.bits = bits, .lowest = lowest, .step = step};
  }
  return std::nullopt;
}

std::vector<uint8_t> pack_codes(std::span<const int16_t> codes, const CodePacking& packing) {
  const auto each = static_cast<size_t>(8 / packing.bits);
  std::vector<uint8_t> packed((codes.size() + each - 1) / each, 0);
  for (size_t i = 0; i < codes.size(); ++i) {
    const int64_t index = (codes[i] - packing.lowest) / packing.step;
    packed[i / each] |= static_cast<uint8_t>(index << (static_cast<int64_t>(i % each) * packing.bits));
  }
  return packed;
}

std::vector<int16_t> unpack_codes(std::span<const uint8_t> packed, int64_t count, const CodePacking& packing) {
  constexpr int64_t kLowest = -128, kHighest = 255;
  const auto& [bits, lowest, step] = packing;
  QAT_CHECK(bits == 1 || bits == 2 || bits == 4, "expected codes of 1, 2 or 4 bits, found {}", bits);
  QAT_CHECK(lowest >= kLowest && lowest <= kHighest && step >= 1 && step <= kHighest - kLowest,
            "codes of {} bits from {} in steps of {} are not codes of 8 bits", bits, lowest, step);
  const int64_t each = 8 / bits;
  QAT_CHECK(count >= 0 && static_cast<uint64_t>(count) <= packed.size() * static_cast<uint64_t>(each) &&
                (count + each - 1) / each == static_cast<int64_t>(packed.size()),
            "expected the bytes of {} codes of {} bits, found {}", count, bits, packed.size());
  const auto mask = static_cast<uint8_t>((1 << bits) - 1);
  QAT_CHECK(count % each == 0 || packed.back() >> (count % each * bits) == 0, "bits behind the last code are not zero");
  std::vector<int16_t> codes(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = packed[static_cast<size_t>(i / each)] >> (i % each * bits) & mask,
                  code = lowest + step * index;
    QAT_CHECK(code <= kHighest, "code {} is not one of 8 bits", code);
    codes[static_cast<size_t>(i)] = static_cast<int16_t>(code);
  }
  return codes;
}

}  // namespace qat::integer
