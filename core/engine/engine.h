// Runs an IntegerModel with integers only. No LibTorch: qat_base, qat_integer, qat_ops and this are deployable alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/integer/integer_model.h"

namespace qat::engine {

/// A batch of one tensor: NHWC (or [N, F]); `codes` for code tensors (each within the tensor's type, int8 stored as its
/// bit pattern) and pixels, `values` for float32.
struct Value {
  int64_t batch = 0;
  std::vector<uint8_t> codes;
  std::vector<float> values;
};

struct Network;  // a model with its weights prepared

/// How weights lie in memory: as the kernels read them, or those of four bits two a byte, unpacked in cache by every
/// run: half the memory, and some third more time. Where sums saturate both are 16 bits a weight.
enum class Weights { kFast, kSmall };

/// Accumulators wrap modulo 2^32 (a lowered model's never do: IntegerModel::check_accumulators). Deterministic for
/// every number of threads. Many threads may use one Engine.
class Engine {
 public:
  /// Checks the model (IntegerModel::check) and prepares its weights. Throws qat::Error.
  explicit Engine(integer::IntegerModel model, Weights weights = Weights::kFast);

  /// Without the codes of weights, which are held as the kernels read them.
  const integer::IntegerModel& model() const;
  /// What the weights take.
  int64_t weight_bytes() const;

  /// Called after each node (and for each input) with the index of the tensor just made.
  using Observer = std::function<void(int tensor, const Value& value)>;

  /// Inputs in the order of model().inputs; float32 inputs are NHWC `values`. Returns the outputs in order.
  /// Throws qat::Error if a size does not fit or an input code lies outside its tensor's range.
  std::vector<Value> run(const std::vector<Value>& inputs, const Observer& observer = nullptr) const;

 private:
  friend class Runner;
  std::shared_ptr<const Network> network_;
};

/// An engine's memory for one batch size: all of it is allocated here, run() allocates nothing. Used by one thread at a
/// time.
class Runner {
 public:
  /// threads: how many run() uses; 0: as many as OpenMP would. Throws qat::Error if batch is not positive or too large.
  Runner(const Engine& engine, int64_t batch, int threads = 0);
  ~Runner();
  Runner(Runner&&) noexcept;
  Runner& operator=(Runner&&) noexcept;

  int64_t batch() const { return batch_; }

  /// The elements of input or output number i, NHWC: float32 in values(), codes (int8 as their bit patterns) in
  /// codes(), pixels too; the other of the two is empty. Inputs are to be written before every run(), which may overwrite them.
  std::span<float> input_values(size_t i = 0);
  std::span<uint8_t> input_codes(size_t i = 0);
  std::span<const float> output_values(size_t i = 0) const;
  std::span<const uint8_t> output_codes(size_t i = 0) const;

  void run() { run(nullptr); }

 private:
  friend class Engine;
  struct Memory;

  void run(const Engine::Observer& observer);

  std::shared_ptr<const Network> network_;
  int64_t batch_ = 0;
  int threads_ = 0;
  std::unique_ptr<Memory> memory_;
};

}  // namespace qat::engine
