#include "quantizers/bfp.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "core/autograd/fake_quantize.h"
#include "core/config/config.h"

namespace qat::quantizers {

struct BfpOptions {
  int64_t block = 16;
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::BfpOptions> {
  static void describe(Fields<qat::quantizers::BfpOptions>& f) {
    f.field("block", &qat::quantizers::BfpOptions::block).doc("values that share an exponent").minimum(1);
  }
};

namespace qat::quantizers {
namespace {

/// Steps stay ordinary float32 numbers, and infinities saturate.
constexpr double kSmallest = 0x1p-100, kLargest = 0x1p127;

}  // namespace

Bfp::Bfp(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : Quantizer(spec), block_(options.options.as<BfpOptions>().block) {}

at::Tensor Bfp::fake_quantize(const at::Tensor& x) {
  if (x.numel() == 0) return x;
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    const int64_t dim = x.dim() > 1 ? 1 : 0;
    const at::Tensor last = x.detach().movedim(dim, -1);
    const int64_t length = last.size(-1), padding = (block_ - length % block_) % block_;
    const at::Tensor blocks = at::constant_pad_nd(last, {0, padding}, 0).unflatten(-1, {-1, block_});
    const at::Tensor exponent = blocks.abs().amax(-1, true).clamp(kSmallest, kLargest).log2().floor();
    const double highest = std::exp2(spec().bits - 1) - 1;
    const at::Tensor step = (exponent - (spec().bits - 2)).exp2();
    y = ((blocks / step).round_().clamp_(-highest, highest) * step).flatten(-2).narrow(-1, 0, length).movedim(-1, dim);
  }
  return autograd::straight_through(y.contiguous(), x);
}

}  // namespace qat::quantizers
