// Datasets of image files: one folder for each class, or a list of files.
#pragma once

#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "datasets/dataset.h"

namespace qat::datasets {

/// Part of an image in pixels, from left, top to before right, bottom.
struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;
};

struct LabelledFile {
  std::string path;
  int64_t label = 0;
  std::optional<Box> crop;  ///< only this part, widened to whole pixels and cut to the image
};

/// What happens to a file that cannot be read or decoded.
enum class OnError {
  kFail,  ///< get() throws its FileError
  kSkip,  ///< the next readable file of the list, the first behind the last, takes its place, with that one's label
};

/// Color images of any size, decoded whenever they are asked for. With kSkip, what stands for a sample depends on the
/// files alone, so that epochs keep their length and are the same for any number of workers.
class ImageFiles final : public Dataset {
 public:
  /// Labels are in [0, class_names.size()). Throws qat::Error for no files or another label.
  ImageFiles(std::vector<LabelledFile> files, std::vector<std::string> class_names, OnError on_error);

  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  /// Throws FileError: an unreadable image under kFail, 100 in a row under kSkip.
  Sample get(int64_t index) const override;
  int64_t num_classes() const override { return static_cast<int64_t>(class_names_.size()); }
  std::vector<std::string> class_names() const override { return class_names_; }
  int64_t height() const override { return kVaries; }
  int64_t width() const override { return kVaries; }
  int64_t channels() const override { return 3; }
  std::string describe(int64_t index) const override;
  std::vector<std::string> damaged() const override;

 private:
  Sample read(const LabelledFile& file) const;

  std::vector<LabelledFile> files_;
  std::vector<std::string> class_names_;
  OnError on_error_;
  mutable std::mutex mutex_;
  mutable std::set<std::string> damaged_;
};

/// The files below <folder>/<class>/, at any depth, as torchvision.datasets.ImageFolder orders them: classes by name,
/// in a class by folder, then by name; names that has_image_extension() knows. `classes` gets the names of the classes.
/// Throws FileError for a folder without classes or a class without images.
std::vector<LabelledFile> list_folder(const std::string& folder, std::vector<std::string>& classes);

/// The lines "path label" of a text file; the label is behind the last space, a relative path starts at the list's
/// folder. Empty lines and lines that start with # are left out. Throws FileError with path and line.
std::vector<LabelledFile> read_list(const std::string& path);

/// One name for each line. Throws FileError for an empty file or line.
std::vector<std::string> read_names(const std::string& path);

}  // namespace qat::datasets
