#include "datasets/transform_options.h"

#include "core/base/error.h"

namespace qat::datasets {

std::string check_size(const config::OneOrMore<int64_t>& size) {
  const size_t count = size.values.size();
  return count == 1 || count == 2 ? "" : fmt::format("size: expected 1 or 2 values, found {}", count);
}

std::string check_fill(const config::OneOrMore<int64_t>& fill) {
  const size_t count = fill.values.size();
  return count == 1 || count == 3 ? "" : fmt::format("fill: expected 1 or 3 values, found {}", count);
}

std::string check_range(const std::string& key, const std::vector<double>& range) {
  if (range.size() == 2 && range[0] <= range[1]) return "";
  return fmt::format("{}: expected [low, high], found [{}]", key, fmt::join(range, ", "));
}

std::vector<uint8_t> fill_bytes(const config::OneOrMore<int64_t>& fill, int64_t channels) {
  const std::vector<int64_t>& values = fill.values;
  QAT_CHECK(values.size() == 1 || static_cast<int64_t>(values.size()) == channels,
            "fill has {} values, the image has {} channel(s)", values.size(), channels);
  return {values.begin(), values.end()};
}

Interpolation interpolation_of(const std::string& name) {
  if (name == "nearest") return Interpolation::kNearest;
  return name == "bicubic" ? Interpolation::kBicubic : Interpolation::kBilinear;
}

}  // namespace qat::datasets
