#include "datasets/loader.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <opencv2/core/utility.hpp>
#include <thread>
#include <utility>

#include "core/base/error.h"
#include "core/base/random.h"

namespace qat::datasets {
namespace {

// The workers are the parallelism; OpenCV's own pool below them only adds contention. The setting is the process's.
void use_opencv_serially() {
  static std::once_flag once;
  std::call_once(once, [] { cv::setNumThreads(0); });
}

}  // namespace

class Loader::Impl {
 public:
  Impl(std::shared_ptr<const Dataset> dataset, Transforms transforms, LoaderOptions options)
      : dataset_(std::move(dataset)), transforms_(std::move(transforms)), options_(options) {
    QAT_CHECK(dataset_ && dataset_->size() > 0, "loader: the dataset has no samples");
    QAT_CHECK(options_.batch_size >= 1 && options_.workers >= 0 && options_.prefetch >= 1,
              "loader: expected batch_size >= 1, workers >= 0, prefetch >= 1, found {}, {}, {}", options_.batch_size,
              options_.workers, options_.prefetch);
    input_shape_ = dataset_->shape();
    shape_ = transforms_.output_shape(input_shape_);
    QAT_CHECK(is_fixed(shape_), "loader: the images differ in size, and no transform makes them equal");
    const int64_t full = dataset_->size() / options_.batch_size;
    batches_ = options_.drop_last || dataset_->size() % options_.batch_size == 0 ? full : full + 1;
    use_opencv_serially();
    if (options_.workers == 0) return;
    slots_.resize(static_cast<size_t>(options_.prefetch));
    try {
      for (int64_t i = 0; i < options_.workers; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {  // out of threads: the destructor does not run for a half-built object
      stop();
      throw;
    }
  }

  ~Impl() { stop(); }

  int64_t batches() const { return batches_; }
  int64_t samples() const { return std::min(dataset_->size(), batches_ * options_.batch_size); }
  const Shape& shape() const { return shape_; }

  void start_epoch(uint64_t epoch, int64_t first_batch) {
    QAT_CHECK(first_batch >= 0 && first_batch <= batches_, "loader: expected a first batch of 0 to {}, found {}",
              batches_, first_batch);
    std::unique_lock lock(mutex_);
    end_ = 0;  // no further claims; what is in work still reads the old order
    idle_.wait(lock, [this] { return active_ == 0; });
    for (Slot& slot : slots_) slot.ready = false;
    epoch_ = epoch;
    if (options_.shuffle) order_ = permutation(dataset_->size(), options_.seed, epoch);
    claimed_ = delivered_ = first_batch;
    end_ = batches_;
    lock.unlock();
    claimable_.notify_all();
  }

  bool next(Batch& out) {
    if (options_.workers == 0) {
      if (delivered_ >= end_) return false;
      try {
        build(delivered_, out);
      } catch (...) {
        end_ = 0;
        throw;
      }
      ++delivered_;
      return true;
    }
    std::unique_lock lock(mutex_);
    if (delivered_ >= end_) return false;
    Slot& slot = slots_[static_cast<size_t>(delivered_ % options_.prefetch)];
    ready_.wait(lock, [&] { return slot.ready; });
    slot.ready = false;
    if (slot.error) {
      end_ = 0;
      std::rethrow_exception(std::exchange(slot.error, nullptr));
    }
    std::swap(out, slot.batch);
    ++delivered_;
    lock.unlock();
    claimable_.notify_one();
    return true;
  }

 private:
  struct Slot {
    Batch batch;
    std::exception_ptr error;
    bool ready = false;
  };

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      claimable_.wait(lock,
                      [this] { return stopping_ || (claimed_ < end_ && claimed_ < delivered_ + options_.prefetch); });
      if (stopping_) return;
      const int64_t index = claimed_++;
      Slot& slot = slots_[static_cast<size_t>(index % options_.prefetch)];
      ++active_;
      lock.unlock();
      std::exception_ptr error;
      try {
        build(index, slot.batch);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      slot.error = std::move(error);
      slot.ready = true;
      --active_;
      ready_.notify_one();
      if (active_ == 0) idle_.notify_one();
    }
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    claimable_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // The dataset's promises.
  void check(int64_t index, const Sample& sample) const {
    const Shape found = sample.image.shape();
    const auto fits = [&](size_t i) { return found[i] == input_shape_[i] || (i < 2 && input_shape_[i] == kVaries); };
    QAT_CHECK(fits(0) && fits(1) && fits(2), "{} is an image of {}x{}x{} (height, width, channels), expected {}x{}x{}",
              dataset_->describe(index), found[0], found[1], found[2], input_shape_[0], input_shape_[1],
              input_shape_[2]);
    QAT_CHECK(sample.label >= 0 && sample.label < dataset_->num_classes(), "{} has label {}, expected 0 to {}",
              dataset_->describe(index), sample.label, dataset_->num_classes() - 1);
  }

  void build(int64_t batch, Batch& out) const {
    const int64_t begin = batch * options_.batch_size;
    out.size = std::min(options_.batch_size, dataset_->size() - begin);
    const int64_t elements = shape_[0] * shape_[1] * shape_[2];
    out.images.resize(static_cast<size_t>(out.size * elements));
    out.labels.resize(static_cast<size_t>(out.size));
    for (int64_t i = 0; i < out.size; ++i) {
      const int64_t index = options_.shuffle ? order_[static_cast<size_t>(begin + i)] : begin + i;
      Sample sample = dataset_->get(index);
      check(index, sample);
      out.labels[static_cast<size_t>(i)] = sample.label;
      try {
        transforms_.apply(std::move(sample.image), hash(options_.seed, epoch_, index), shape_,
                          out.images.data() + i * elements);
      } catch (const Error& error) {
        throw Error(fmt::format("{}: {}", dataset_->describe(index), error.what()));
      }
    }
  }

  const std::shared_ptr<const Dataset> dataset_;
  const Transforms transforms_;
  const LoaderOptions options_;
  Shape input_shape_{};
  Shape shape_{};
  int64_t batches_ = 0;

  // Written by start_epoch while no batch is in work, so workers read them without the lock.
  std::vector<int64_t> order_;
  uint64_t epoch_ = 0;

  // Batch b is built in slot b % prefetch: claimed_ - delivered_ <= prefetch keeps the slots apart.
  std::mutex mutex_;
  std::condition_variable claimable_, ready_, idle_;
  std::vector<Slot> slots_;
  int64_t claimed_ = 0;
  int64_t delivered_ = 0;
  int64_t end_ = 0;
  int64_t active_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, Transforms transforms, LoaderOptions options)
    : impl_(std::make_unique<Impl>(std::move(dataset), std::move(transforms), options)) {}

Loader::~Loader() = default;

int64_t Loader::batches() const { return impl_->batches(); }
int64_t Loader::samples() const { return impl_->samples(); }
Shape Loader::shape() const { return impl_->shape(); }
void Loader::start_epoch(uint64_t epoch, int64_t first_batch) { impl_->start_epoch(epoch, first_batch); }
bool Loader::next(Batch& out) { return impl_->next(out); }

}  // namespace qat::datasets
