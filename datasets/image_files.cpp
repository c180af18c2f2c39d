#include "datasets/image_files.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/text.h"
#include "datasets/image_file.h"

namespace qat::datasets {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxDamagedInARow = 100;
constexpr uint64_t kMaxListBytes = uint64_t{1} << 30;

Image crop(const Image& image, const Box& box, const std::string& path) {
  const auto side = [](double from, double to, int64_t length) {
    const double end = static_cast<double>(length);
    return std::pair{static_cast<int64_t>(std::clamp(std::floor(from), 0.0, end)),
                     static_cast<int64_t>(std::clamp(std::ceil(to), 0.0, end))};
  };
  const auto [left, right] = side(box.left, box.right, image.width);
  const auto [top, bottom] = side(box.top, box.bottom, image.height);
  QAT_CHECK_AS(FileError, left < right && top < bottom,
               "{}: the box ({}, {}) to ({}, {}) lies outside the image of {}x{}", path, box.left, box.top, box.right,
               box.bottom, image.height, image.width);
  Image result = blank({bottom - top, right - left, image.channels});
  const int64_t row = result.width * image.channels;
  for (int64_t y = top; y < bottom; ++y) {
    std::copy_n(image.pixels.data() + (y * image.width + left) * image.channels, row,
                result.pixels.data() + (y - top) * row);
  }
  return result;
}

// The entries of a folder, or below it; symbolic links are followed, as os.walk does for torchvision.
template <class Iterator>
std::vector<fs::directory_entry> entries_of(const fs::path& folder) {
  std::vector<fs::directory_entry> entries;
  std::error_code error;
  for (Iterator at(folder, fs::directory_options::follow_directory_symlink, error); !error && at != Iterator();
       at.increment(error)) {
    entries.push_back(*at);
  }
  if (error) throw file_error(folder.string(), "cannot list the folder", error.value());
  return entries;
}

std::vector<std::string> lines_of(const std::string& path) {
  const std::string text = read_file(path, kMaxListBytes);
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    if (lines.back().ends_with('\r')) lines.back().pop_back();
    at = end + 1;
  }
  return lines;
}

}  // namespace

ImageFiles::ImageFiles(std::vector<LabelledFile> files, std::vector<std::string> class_names, OnError on_error)
    : files_(std::move(files)), class_names_(std::move(class_names)), on_error_(on_error) {
  QAT_CHECK(!files_.empty(), "expected at least one image");
  for (const LabelledFile& file : files_) {
    QAT_CHECK(file.label >= 0 && file.label < num_classes(), "{}: label {}, expected 0 to {}", file.path, file.label,
              num_classes() - 1);
  }
}

Sample ImageFiles::read(const LabelledFile& file) const {
  Image image = read_image(file.path);
  return {file.crop ? crop(image, *file.crop, file.path) : std::move(image), file.label};
}

Sample ImageFiles::get(int64_t index) const {
  QAT_CHECK(index >= 0 && index < size(), "sample {} of {} does not exist", index, size());
  const int64_t tries = on_error_ == OnError::kSkip ? std::min(size(), kMaxDamagedInARow) : 1;
  for (int64_t i = 0;; ++i) {
    const LabelledFile& file = files_[static_cast<size_t>((index + i) % size())];
    try {
      return read(file);
    } catch (const FileError& error) {
      if (on_error_ == OnError::kFail) throw;
      if (i + 1 == tries) throw FileError(fmt::format("{} ({} images in a row)", error.what(), tries));
      const std::lock_guard lock(mutex_);
      damaged_.insert(file.path);
    }
  }
}

std::string ImageFiles::describe(int64_t index) const {
  return fmt::format("sample {} ({})", index, files_.at(static_cast<size_t>(index)).path);
}

std::vector<std::string> ImageFiles::damaged() const {
  const std::lock_guard lock(mutex_);
  return {damaged_.begin(), damaged_.end()};
}

std::vector<LabelledFile> list_folder(const std::string& folder, std::vector<std::string>& classes) {
  classes.clear();
  for (const fs::directory_entry& entry : entries_of<fs::directory_iterator>(folder)) {
    if (entry.is_directory()) classes.push_back(entry.path().filename().string());
  }
  std::sort(classes.begin(), classes.end());
  QAT_CHECK_AS(FileError, !classes.empty(), "{}: expected a folder for each class, found none", folder);
  std::vector<LabelledFile> files;
  for (size_t label = 0; label < classes.size(); ++label) {
    const fs::path of_class = fs::path(folder) / classes[label];
    std::vector<std::pair<std::string, std::string>> found;  // folder, name
    for (const fs::directory_entry& entry : entries_of<fs::recursive_directory_iterator>(of_class)) {
      if (!entry.is_directory() && has_image_extension(entry.path().filename().string())) {
        found.emplace_back(entry.path().parent_path().string(), entry.path().filename().string());
      }
    }
    QAT_CHECK_AS(FileError, !found.empty(), "{}: expected images of the class, found none", of_class.string());
    std::sort(found.begin(), found.end());
    for (const auto& [parent, name] : found) {
      files.push_back({(fs::path(parent) / name).string(), static_cast<int64_t>(label), std::nullopt});
    }
  }
  return files;
}

std::vector<LabelledFile> read_list(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
  std::vector<LabelledFile> files;
  int64_t number = 0;
  for (const std::string& line : lines_of(path)) {
    ++number;
    if (line.empty() || line.starts_with('#')) continue;
    const size_t space = line.find_last_of(" \t");
    const size_t name_end = space == std::string::npos ? space : line.find_last_not_of(" \t", space);
    int64_t label = -1;
    const char* end = line.data() + line.size();
    const auto [stop, error] = std::from_chars(line.data() + std::min(space, line.size() - 1) + 1, end, label);
    QAT_CHECK_AS(FileError, name_end != std::string::npos && error == std::errc() && stop == end && label >= 0,
                 "{}:{}: expected \"path label\", found {}", path, number, in_quotes(line));
    files.push_back({(folder / line.substr(0, name_end + 1)).string(), label, std::nullopt});
  }
  QAT_CHECK_AS(FileError, !files.empty(), "{}: expected lines \"path label\", found none", path);
  return files;
}

std::vector<std::string> read_names(const std::string& path) {
  std::vector<std::string> names = lines_of(path);
  while (!names.empty() && names.back().empty()) names.pop_back();
  QAT_CHECK_AS(FileError, !names.empty() && std::find(names.begin(), names.end(), "") == names.end(),
               "{}: expected a name in each line", path);
  return names;
}

}  // namespace qat::datasets
