#include "core/archive/sniff.h"

#include <algorithm>
#include <cctype>

#include "core/base/error.h"

namespace qat::archive {
namespace {

constexpr size_t kTarMagic = 257;

bool is_text(std::string_view bytes) {
  return std::ranges::all_of(bytes, [](char c) {
    return std::isprint(static_cast<unsigned char>(c)) || std::isspace(static_cast<unsigned char>(c));
  });
}

}  // namespace

void refuse_other_formats(std::string_view bytes) {
  const auto refuse = [](std::string_view what) {
    throw Error(fmt::format("looks like {}; expected weights (.pth or .safetensors)", what));
  };
  if (bytes.empty()) refuse("an empty file");
  const std::string_view start = bytes.substr(0, 256);
  const std::string_view text = start.substr(std::min(start.size(), start.find_first_not_of(" \t\r\n")));
  if (start.starts_with("version https://git-lfs")) refuse("a Git LFS pointer (the file itself was not downloaded)");
  if (text.starts_with("<")) refuse("a web page (was the download refused?)");
  if (start.starts_with("\x1f\x8b")) refuse("a gzip file");
  if (bytes.size() > kTarMagic && bytes.substr(kTarMagic).starts_with("ustar"))
    refuse("a tar file (PyTorch before 0.2?)");
  if (is_text(start)) refuse("a text file");
}

}  // namespace qat::archive
