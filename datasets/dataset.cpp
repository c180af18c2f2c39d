#include "datasets/dataset.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"

namespace qat::datasets {
namespace {

class Head final : public Dataset {
 public:
  Head(std::shared_ptr<const Dataset> all, int64_t size) : all_(std::move(all)), size_(size) {}
  int64_t size() const override { return size_; }
  Sample get(int64_t index) const override {
    QAT_CHECK(index >= 0 && index < size_, "sample {} of {} does not exist", index, size_);
    return all_->get(index);
  }
  int64_t num_classes() const override { return all_->num_classes(); }
  std::vector<std::string> class_names() const override { return all_->class_names(); }
  int64_t height() const override { return all_->height(); }
  int64_t width() const override { return all_->width(); }
  int64_t channels() const override { return all_->channels(); }
  std::string describe(int64_t index) const override { return all_->describe(index); }
  std::vector<std::string> damaged() const override { return all_->damaged(); }

 private:
  std::shared_ptr<const Dataset> all_;
  int64_t size_;
};

}  // namespace

std::vector<std::string> Dataset::class_names() const {
  std::vector<std::string> names;
  for (int64_t label = 0; label < num_classes(); ++label) names.push_back(std::to_string(label));
  return names;
}

std::string Dataset::describe(int64_t index) const { return fmt::format("sample {}", index); }

std::shared_ptr<const Dataset> first_samples(std::shared_ptr<const Dataset> dataset, int64_t size) {
  QAT_CHECK(size >= 0, "first_samples: expected a size of 0 or more, found {}", size);
  if (size >= dataset->size()) return dataset;
  return std::make_shared<Head>(std::move(dataset), size);
}

}  // namespace qat::datasets
