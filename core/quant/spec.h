// What a quantizer is asked for, and what it answers. No LibTorch beyond at::Tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "core/autograd/quantized_tensor.h"
#include "core/config/config.h"

namespace qat::quant {

enum class Role { kWeight, kActivation };
enum class Granularity { kTensor, kChannel, kGroup };

/// A request: how many codes, and for what. Codes are stored as the target wants them (onnxruntime: activations uint8,
/// weights int8), so the code range follows from the fields:
///   weights      [-2^(b-1), 2^(b-1) - 1], or from -(2^(b-1) - 1) with narrow_range; zero point 0; 1 bit: -1 and 1;
///                8 bits with reduce_range: [-64, 64]
///   activations  [0, 2^b - 1]; zero point 0 (not signed), 2^(b-1) (signed, symmetric) or observed (affine);
///                1 bit, signed: 0 and 2 around the zero point 1
struct QuantSpec {
  Role role = Role::kActivation;
  int bits = 8;               // 1 .. 16; what a method can do stands in its Support
  bool is_signed = false;     // activations: can values be negative? false behind a ReLU
  bool affine = false;        // activations, signed: the zero point may follow the range
  bool narrow_range = false;  // weights
  bool reduce_range = false;  // weights of 8 bits: 2 * 255 * 64 fits int16, in which some CPUs' instructions sum pairs
  Granularity granularity = Granularity::kTensor;
  int64_t channels = 1;  // of a weight; output channels come first
  int64_t groups = 1;    // with kGroup: how many; each is channels / groups neighbouring output channels
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
  /// log2 of the steps on one side of zero, where there are two sides: b - 1, one less with reduce_range; otherwise b.
  int magnitude_bits() const { return bits - (is_weight() || is_signed ? 1 : 0) - (reduce_range ? 1 : 0); }
  int64_t scales() const;
  bool is_weight() const { return role == Role::kWeight; }

  /// The largest scale with which the codes, with this zero point, stay within lowest and highest.
  double largest_scale(double zero_point) const;
  /// Whether a clip other than ReLU stands in front.
  bool has_limits() const { return std::isfinite(highest) || (std::isfinite(lowest) && lowest < 0); }

  /// Throws qat::Error if bits are outside 1 .. 16 or fields contradict each other.
  void check() const;
};

/// An answer: float32 scale and int32 zero point, [scales()].
struct QParams {
  at::Tensor scale;
  at::Tensor zero_point;
};

/// What layers, lowering and the contract tests may assume of a method.
struct Traits {
  bool affine = true;          // values are scale * (code - zero_point), codes are integers
  bool idempotent = true;      // quantizing a quantized value changes nothing
  bool integer_levels = true;  // every code of [lo, hi] is a level, and a value gets the nearest one
  bool is_sign = false;        // an activation is 1 where its value is 0 or more, else -1
  int code_bits = 8;           // width that holds every code; the integer path has 8
  bool scale_folds = true;     // batch norm may multiply a channel's scale; false for restricted scales (powers of two)
  bool normalizes = false;     // a weight's multiples have its codes and scale: batch norm cannot come before
  bool keeps_limits = false;   // the range stays within the request's lowest and highest
};

/// For methods without options of their own: any key is unknown.
struct NoOptions {};

using autograd::GradientRule;

}  // namespace qat::quant

template <>
struct qat::config::Schema<qat::quant::NoOptions> {
  static void describe(Fields<qat::quant::NoOptions>&) {}
};
