// What a quantizer is asked for, and what it answers. No LibTorch beyond at::Tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <string>

#include "core/autograd/quantized_tensor.h"

namespace qat::quant {

enum class Role { kWeight, kActivation };
enum class Granularity { kTensor, kChannel };

/// A request: how many codes, and for what. Codes are stored as the target wants them (onnxruntime: activations uint8,
/// weights int8), so the code range follows from the fields:
///   weights      [-2^(b-1), 2^(b-1) - 1], or from -(2^(b-1) - 1) with narrow_range; zero point 0
///   activations  [0, 2^b - 1]; zero point 0 (not signed), 2^(b-1) (signed, symmetric) or observed (affine)
struct QuantSpec {
  Role role = Role::kActivation;
  int bits = 8;               // 2 .. 8
  bool is_signed = false;     // activations: can values be negative? false behind a ReLU
  bool affine = false;        // activations, signed: the zero point may follow the range
  bool narrow_range = false;  // weights
  Granularity granularity = Granularity::kTensor;
  int64_t channels = 1;  // of a weight; output channels come first
  /// No value lies outside (a clip in front of the quantizer); the codes' range stays within, so that quantizing does
  /// the clip's work. lowest <= 0 < highest.
  double lowest = -std::numeric_limits<double>::infinity();
  double highest = std::numeric_limits<double>::infinity();

  int32_t lo() const;
  int32_t hi() const;
  /// 0, or 2^(b-1) for signed activations: where an affine zero point starts.
  int32_t symmetric_zero_point() const;
  /// hi - zero point: the largest code above zero (Qp in the papers).
  int32_t positive_levels() const { return hi() - symmetric_zero_point(); }
  int64_t scales() const { return granularity == Granularity::kChannel ? channels : 1; }

  /// The largest scale with which the codes, with this zero point, stay within lowest and highest.
  double largest_scale(double zero_point) const;

  /// Throws qat::Error if bits are outside 2 .. 8 or fields contradict the role.
  void check() const;
};

/// An answer: float32 scale and int32 zero point, [1] or [channels].
struct QParams {
  at::Tensor scale;
  at::Tensor zero_point;
};

/// What lowering and the contract tests may assume of a method.
struct Traits {
  bool affine = true;          // values are scale * (code - zero_point)
  bool idempotent = true;      // quantizing a quantized value changes nothing
  bool integer_levels = true;  // every code of the range is one level
  bool scale_folds = true;     // batch norm may multiply a channel's scale; false for restricted scales (powers of two)
};

using autograd::GradientRule;

}  // namespace qat::quant
