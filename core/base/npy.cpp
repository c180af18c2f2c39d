#include "core/base/npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace qat {

std::string npy(std::string_view dtype, const std::vector<int64_t>& shape, std::string_view data) {
  // The header is padded with spaces so that the data starts at a multiple of 64.
  constexpr size_t kAlignment = 64, kPrefix = 10;
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", dtype,
                                   fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  header.resize((kPrefix + header.size() + kAlignment) / kAlignment * kAlignment - kPrefix, ' ');
  header.back() = '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes.push_back(static_cast<char>(header.size() & 0xff));
  bytes.push_back(static_cast<char>(header.size() >> 8));
  return bytes.append(header).append(data);
}

}  // namespace qat
