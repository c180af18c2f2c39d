#include "core/ops/rounding.h"

#include <array>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"

namespace qat::ops {
namespace {

constexpr std::array<std::pair<const char*, Rounding>, 8> kNames{{{"half_even", Rounding::kHalfEven},
                                                                  {"half_up", Rounding::kHalfUp},
                                                                  {"half_down", Rounding::kHalfDown},
                                                                  {"half_away", Rounding::kHalfAway},
                                                                  {"floor", Rounding::kFloor},
                                                                  {"ceil", Rounding::kCeil},
                                                                  {"toward_zero", Rounding::kTowardZero},
                                                                  {"stochastic", Rounding::kStochastic}}};

}  // namespace

Rounding rounding_from(const std::string& name) {
  for (const auto& [known, mode] : kNames) {
    if (name == known) return mode;
  }
  throw Error(fmt::format("unknown rounding '{}'; known: {}", name, join(roundings(), ", ")));
}

std::vector<std::string> roundings() {
  std::vector<std::string> names;
  for (const auto& [name, mode] : kNames) names.emplace_back(name);
  return names;
}

std::vector<std::string> deterministic_roundings() {
  std::vector<std::string> names = roundings();
  names.pop_back();
  return names;
}

}  // namespace qat::ops
