// Runs an IntegerModel with integers only. No LibTorch: qat_base, qat_integer, qat_ops and this are deployable alone.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/integer/integer_model.h"

namespace qat::engine {

/// A batch of one tensor: NHWC (or [N, F]); `codes` for code tensors (each within the tensor's type, uint8 stored as
/// its bit pattern), `values` for float32.
struct Value {
  int64_t batch = 0;
  std::vector<uint8_t> codes;
  std::vector<float> values;
};

class Engine {
 public:
  /// Checks the model (IntegerModel::check) and prepares its weights. Throws qat::Error.
  explicit Engine(integer::IntegerModel model);

  const integer::IntegerModel& model() const { return model_; }

  /// Called after each node (and for each input) with the index of the tensor just made.
  using Observer = std::function<void(int tensor, const Value& value)>;

  /// Inputs in the order of model().inputs; float32 inputs are NHWC `values`. Returns the outputs in order.
  /// Throws qat::Error if a size does not fit or an input code lies outside its tensor's range. Accumulators wrap
  /// modulo 2^32 (a lowered model's never do: IntegerModel::check_accumulators). Deterministic for every number of
  /// threads.
  std::vector<Value> run(const std::vector<Value>& inputs, const Observer& observer = nullptr) const;

 private:
  /// What a node needs beside the model's own fields.
  struct Prepared {
    std::vector<int16_t> weight;               // centred: code - zero point, [co][kh][kw][ci / groups]
    std::vector<float> multiplier;             // per output channel
    std::vector<std::vector<int16_t>> tables;  // kConcat: one for each input
    std::vector<int> last_uses;                // tensors that no later node reads
  };

  template <class Code>
  Value compute(const integer::Node& node, const Prepared& prepared, const std::vector<Value>& values) const;
  template <class Code>
  void convolve(const integer::Node& node, const Prepared& prepared, const Value& x, Value& y) const;
  template <class Code>
  void combine(const integer::Node& node, const std::vector<Value>& values, Value& y) const;
  template <class Code>
  void concat(const integer::Node& node, const Prepared& prepared, const std::vector<Value>& values, Value& y) const;
  void check_input(const integer::Tensor& tensor, const Value& value, int64_t batch) const;
  const integer::Tensor& tensor(int index) const { return model_.tensors[static_cast<size_t>(index)]; }

  integer::IntegerModel model_;
  std::vector<Prepared> prepared_;  // per node
};

}  // namespace qat::engine
