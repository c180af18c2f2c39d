// What quantizers with evenly spaced levels share: their options, their plain forward, and scales from ranges.
#pragma once

#include <optional>
#include <string>

#include "core/autograd/fake_quantize.h"
#include "core/quant/quantizer.h"

namespace qat::quant {

/// Keys of every uniform method.
struct UniformOptions {
  std::string round = "half_even";
  double ewgs = 0;
  bool clip = true;
};

/// Adds them to the table of a method's own options, a struct derived from UniformOptions.
template <class T>
void describe_uniform(config::Fields<T>& f) {
  f.field("round", static_cast<std::string T::*>(&T::round))
      .doc("weights: how values become integers; stochastic in training only")
      .one_of(ops::roundings());
  f.field("ewgs", static_cast<double T::*>(&T::ewgs))
      .doc("element-wise gradient scaling (arXiv:2104.00903); 0: off")
      .minimum(0);
  f.field("clip", static_cast<bool T::*>(&T::clip)).doc("false: the gradient passes outside the range too");
}

/// y = s * (clip(round(x / s) + z) - z). Derived classes own the scale and say which gradient reaches it.
///
/// Rounding of activations belongs to the target, so other modes than half_even are for weights; the constructor throws
/// qat::Error otherwise. Any other option switches the fast path off.
class UniformQuantizer : public Quantizer {
 public:
  Traits traits() const override;
  std::optional<GradientRule> rule() const final;

 protected:
  UniformQuantizer(const QuantSpec& spec, const UniformOptions& options, GradientRule rule);
  at::Tensor fake_quantize(const at::Tensor& x) override;
  /// The grid as it stands, with all that the options say.
  autograd::AffineGrid grid(const at::Tensor& x) const;
  ops::Rounding rounding() const { return rounding_; }

 private:
  UniformOptions options_;
  GradientRule rule_;
  ops::Rounding rounding_;
};

/// A scale below this is raised to it, as torch.ao's observers do.
inline constexpr double kSmallestScale = 1.1920928955078125e-07;  // float32 epsilon

/// How a range becomes scale and zero point. kTorch*: what torch.ao computes, to compare with it and continue its runs.
enum class Scheme {
  kSymmetric,  // s = max(|min|, |max|) / (hi - z), z given
  kAffine,     // s = (max - min) / (hi - lo), z the even code next to lo - min / s: operators that add z before and
               // after rounding then agree at ties; s grows until min and max are within half a step of lo and hi
  kTorchSymmetric,  // s = max(|min|, |max|) / ((hi - lo) / 2), z given: 127.5 for int8 (observers)
  kTorchFused,      // s = max(|min| / 128, max / 127) for int8, z = 0; kTorchAffine's where all values have one sign
                    // (the fused symmetric kernel)
  kTorchAffine,     // s = (max - min) / (hi - lo), z = lo - round(min / s)
};

struct ScaleZero {
  double scale = 1;
  int32_t zero_point = 0;
};

/// The scale of activations that were all zero. Any would do for them; a tiny one would give the layers around it
/// multipliers that runtimes refuse.
inline constexpr double kScaleOfZeros = 1;

/// Scale and zero point for a range, which is first widened to hold 0; kScaleOfZeros for one of width 0 (torch.ao's
/// schemes: kSmallestScale). zero_point: of symmetric schemes.
ScaleZero choose_params(Scheme scheme, double min, double max, int32_t lo, int32_t hi, int32_t zero_point);

}  // namespace qat::quant
