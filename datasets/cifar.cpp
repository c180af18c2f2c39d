#include "datasets/cifar.h"

#include <filesystem>
#include <system_error>

#include "core/base/error.h"
#include "core/base/files.h"
#include "datasets/image_files.h"

namespace qat::datasets {
namespace {

constexpr size_t kPlane = 32 * 32;
constexpr size_t kPixels = 3 * kPlane;
constexpr uint64_t kMaxRecordFileBytes = uint64_t{1} << 32;

}  // namespace

CifarDataset::CifarDataset(const std::vector<std::string>& files, const std::string& names, CifarLabels labels,
                           int64_t limit)
    : num_classes_(labels == CifarLabels::kTen    ? 10
                   : labels == CifarLabels::kFine ? 100
                                                  : 20) {
  QAT_CHECK(limit >= 0, "cifar: expected a limit >= 0, found {}", limit);
  const size_t label_bytes = labels == CifarLabels::kTen ? 1 : 2;
  const size_t label_at = labels == CifarLabels::kFine ? 1 : 0;
  const size_t record = label_bytes + kPixels;
  for (const std::string& path : files) {
    const std::string bytes = read_file(path, kMaxRecordFileBytes);
    QAT_CHECK_AS(FileError, !bytes.empty() && bytes.size() % record == 0,
                 "{}: expected a whole number of records of {} bytes, found {} bytes", path, record, bytes.size());
    for (size_t at = 0; at < bytes.size(); at += record) {
      const auto label = static_cast<uint8_t>(bytes[at + label_at]);
      QAT_CHECK_AS(FileError, label < num_classes_, "{}: the label of record {} is {}, expected 0 to {}", path,
                   at / record, label, num_classes_ - 1);
      if (limit > 0 && size() == limit) continue;  // its label was worth checking
      labels_.push_back(label);
      pixels_.append(bytes, at + label_bytes, kPixels);
    }
  }
  QAT_CHECK(!labels_.empty(), "cifar: expected at least one file of records");
  std::error_code error;
  if (!std::filesystem::exists(names, error)) return;
  class_names_ = read_names(names);
  QAT_CHECK_AS(FileError, static_cast<int64_t>(class_names_.size()) == num_classes_,
               "{}: expected {} names of classes, found {}", names, num_classes_, class_names_.size());
}

Sample CifarDataset::get(int64_t index) const {
  QAT_CHECK(index >= 0 && index < size(), "cifar: sample {} of {} does not exist", index, size());
  Sample sample{blank(shape()), labels_[static_cast<size_t>(index)]};
  const char* planes = pixels_.data() + static_cast<size_t>(index) * kPixels;
  for (size_t i = 0; i < kPixels; ++i) {
    sample.image.pixels[i] = static_cast<uint8_t>(planes[i % 3 * kPlane + i / 3]);
  }
  return sample;
}

std::vector<std::string> CifarDataset::class_names() const {
  return class_names_.empty() ? Dataset::class_names() : class_names_;
}

}  // namespace qat::datasets
