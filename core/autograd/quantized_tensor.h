// QuantizedTensor: what travels between quantized layers, in training as in evaluation.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/ops/nibbles.h"
#include "core/ops/types.h"

namespace qat::autograd {

/// Which gradient reaches the values and the parameters behind a quantizer.
enum class GradientRule {
  kStraightThrough,  // values: g inside the clip range; parameters: none (ranges are observed)
  kLearnedStep,      // LSQ (arXiv:1902.08153): as above, and the scale learns (ARITHMETIC section 2)
};

/// Codes as nodes keep them for backward: two a byte where their range has at most 16 codes. Copies share the memory.
class KeptCodes {
 public:
  KeptCodes() = default;
  KeptCodes(const at::Tensor& codes, const ops::CodeRange& range);

  bool defined() const { return stored_.defined(); }
  at::IntArrayRef sizes() const { return sizes_; }
  /// uint8 in kernel_layout's memory format.
  at::Tensor codes() const;
  /// In the order of that memory, while this lives.
  ops::StoredCodes stored() const;

 private:
  at::Tensor stored_;
  std::vector<int64_t> sizes_;
  bool packed_ = false;
  int32_t lo_ = 0;
};

/// Codes with one scale and zero point, and the autograd handle that stands for the real values s * (q - z).
///
/// codes   uint8: [N, C, spatial...] in channels-last memory, or [N, F] contiguous
/// scale   float32 [1], zero_point  int32 [1]: snapshots, not the quantizer's own tensors
/// handle  float32 of the same sizes without memory (all strides 0, holding NaN). Its gradient is dL/d(s * (q - z)).
///
/// There is no conversion to at::Tensor: a layer that needs floats calls dequantize().
class QuantizedTensor {
 public:
  /// kept: of these codes, where their maker keeps them.
  QuantizedTensor(at::Tensor codes, float scale, ops::CodeRange range, at::Tensor handle, KeptCodes kept = {});

  const at::Tensor& codes() const { return codes_; }
  /// Made when first asked for; the same for all who ask.
  const KeptCodes& kept() const;
  const at::Tensor& handle() const { return handle_; }
  float scale() const { return scale_; }
  const ops::CodeRange& range() const { return range_; }
  int32_t zero_point() const { return range_.zero_point; }
  at::IntArrayRef sizes() const { return codes_.sizes(); }

  /// fl32(scale * float(q - z)), with the gradient passed to the handle unchanged.
  at::Tensor dequantize() const;

 private:
  at::Tensor codes_;
  float scale_;
  ops::CodeRange range_;
  at::Tensor handle_;
  std::shared_ptr<KeptCodes> kept_;
};

/// A weight as int8 codes, one scale per output channel; the handle's gradient is dL/d(s_w * code).
struct QuantizedWeight {
  at::Tensor codes;  // int8, the weight's sizes; 4-d weights in channels_last memory
  at::Tensor scale;  // float32 [out_channels]
  at::Tensor handle;
};

/// A tensor of the given sizes that owns 4 bytes and holds NaN: reading it by mistake shows.
at::Tensor make_handle(at::IntArrayRef sizes);

/// Channels (the second dimension) last in memory, without gaps: the only memory format that kernels see.
at::Tensor kernel_layout(const at::Tensor& x);

/// An uninitialised tensor of these sizes in kernel_layout's memory format.
at::Tensor empty_kernel_layout(at::IntArrayRef sizes, at::ScalarType type);

/// Uninitialised bytes for one bit an element.
at::Tensor mask_bits(int64_t elements);

}  // namespace qat::autograd
