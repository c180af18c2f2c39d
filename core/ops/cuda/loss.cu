#include "core/ops/cuda/block.cuh"
#include "core/ops/cuda/launch.cuh"
#include "core/ops/cuda/loss.h"

namespace qat::ops::cuda {
namespace {

constexpr int kSampleThreads = 128, kJoining = 256;

struct SampleLoss {
  __device__ void join(const SampleLoss& other) {
    loss += other.loss;
    correct += other.correct;
  }
  double loss;
  int64_t correct;
};

/// The largest logit, where it is first.
struct Largest {
  __device__ void join(const Largest& other) {
    if (other.logit > logit || (other.logit == logit && other.first < first)) *this = other;
  }
  float logit;
  int64_t first;
};

/// Of the logits less the largest one: their sum and that of their exponentials.
struct Distances {
  __device__ void join(const Distances& other) {
    sum += other.sum;
    exponentials += other.exponentials;
  }
  double sum, exponentials;
};

/// The logarithms of a sample's probabilities.
struct Logarithms {
  __device__ double operator()(int64_t c) const { return (static_cast<double>(logits[c]) - largest) - log_sum; }
  /// NaN where there is no such class.
  __device__ double of_label(int64_t label) const { return label >= 0 && label < classes ? (*this)(label) : NAN; }
  const float* logits;
  int64_t classes;
  double largest, log_sum;
};

/// One label's share of the target.
struct LabelShare {
  int64_t label;
  double share;
};

/// A block takes a sample.
__global__ void __launch_bounds__(kSampleThreads)
    sample_losses(const float* logits, int64_t classes, Targets targets, float* gradient, SampleLoss* losses) {
  await_previous();
  const int64_t sample = blockIdx.x;
  logits += sample * classes;
  const int thread = static_cast<int>(threadIdx.x);
  Largest mine{-INFINITY, INT64_MAX};
  for (int64_t c = thread; c < classes; c += kSampleThreads) mine.join({logits[c], c});
  const Largest largest = joined<kSampleThreads>(mine);
  Distances distances{0.0, 0.0};
  for (int64_t c = thread; c < classes; c += kSampleThreads) {
    const double distance = static_cast<double>(logits[c]) - static_cast<double>(largest.logit);
    distances.join({distance, exp(distance)});
  }
  distances = joined<kSampleThreads>(distances);
  const Logarithms log_of{logits, classes, largest.logit, log(distances.exponentials)};

  const double smooth = targets.label_smoothing, each = smooth / static_cast<double>(classes);
  const double share = targets.share == nullptr ? 1.0 : static_cast<double>(*targets.share);
  const bool mixed = share != 1.0;
  const LabelShare one{targets.labels[sample], (1.0 - smooth) * share};
  const LabelShare other{mixed ? targets.others[sample] : 0, (1.0 - smooth) * (1.0 - share)};
  if (thread == 0) {
    double loss = -one.share * log_of.of_label(one.label);
    if (mixed) loss -= other.share * log_of.of_label(other.label);
    // Without smoothing a logit of -infinity is no reason for an infinite loss.
    if (smooth > 0.0) loss -= each * (distances.sum - static_cast<double>(classes) * log_of.log_sum);
    losses[sample] = {loss, largest.first == one.label ? 1 : 0};
  }
  if (gradient == nullptr) return;
  gradient += sample * classes;
  for (int64_t c = thread; c < classes; c += kSampleThreads) {
    double target = each;
    if (c == one.label) target += one.share;
    if (mixed && c == other.label) target += other.share;
    gradient[c] = static_cast<float>((exp(log_of(c)) - target) / static_cast<double>(gridDim.x));
  }
}

__global__ void __launch_bounds__(kJoining)
    join_losses(const SampleLoss* losses, int64_t batch, LossTotals* totals, int32_t* failed) {
  await_previous();
  SampleLoss mine{0.0, 0};
  for (int64_t i = threadIdx.x; i < batch; i += kJoining) mine.join(losses[i]);
  const SampleLoss all = joined<kJoining>(mine);
  if (threadIdx.x > 0) return;
  totals->loss += all.loss;
  totals->correct += all.correct;
  totals->samples += batch;
  totals->last_loss = all.loss / static_cast<double>(batch);
  if (!(fabs(all.loss) < HUGE_VAL)) *failed = 1;
}

}  // namespace

size_t cross_entropy_scratch(int64_t batch) { return static_cast<size_t>(batch) * sizeof(SampleLoss); }

void cross_entropy(const float* logits, int64_t batch, int64_t classes, const Targets& targets, float* gradient,
                   LossTotals* totals, int32_t* failed, void* scratch, cudaStream_t stream) {
  constexpr const char* kName = "cross_entropy";
  require(classes > 0 && batch >= 0 && batch <= INT32_MAX, kName, "a batch needs classes and fewer than 2^31 samples");
  require(targets.label_smoothing >= 0.0 && targets.label_smoothing <= 1.0, kName, "label smoothing must be in [0, 1]");
  require(targets.share == nullptr || targets.others != nullptr, kName, "mixed samples need the other labels");
  if (batch == 0) return;
  auto* losses = static_cast<SampleLoss*>(scratch);
  launch_kernel(kName, sample_losses, static_cast<unsigned>(batch), kSampleThreads, 0, stream, logits, classes, targets,
                gradient, losses);
  launch_kernel(kName, join_losses, 1, kJoining, 0, stream, losses, batch, totals, failed);
}

}  // namespace qat::ops::cuda
