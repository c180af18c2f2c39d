#include "quantizers/winograd.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <vector>

#include "core/autograd/fake_quantize.h"
#include "quantizers/minmax.h"

namespace qat::quantizers {

struct WinogradOptions {
  std::string tile = "F23";
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::WinogradOptions> {
  static void describe(Fields<qat::quantizers::WinogradOptions>& f) {
    f.field("tile", &qat::quantizers::WinogradOptions::tile)
        .doc("output tile and kernel")
        .one_of({"F23", "F43", "F63"});
  }
};

namespace qat::quantizers {
namespace {

std::vector<double> rows_of_g(const std::string& tile) {
  if (tile == "F23") return {1, 0, 0, 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0, 0, 1};
  if (tile == "F43") {
    return {1.0 / 4,  0,        0,       -1.0 / 6, -1.0 / 6,  -1.0 / 6, -1.0 / 6, 1.0 / 6, -1.0 / 6,
            1.0 / 24, 1.0 / 12, 1.0 / 6, 1.0 / 24, -1.0 / 12, 1.0 / 6,  0,        0,       1};
  }
  return {1,         0,        0,         -2.0 / 9,   -2.0 / 9, -2.0 / 9,  -2.0 / 9, 2.0 / 9,
          -2.0 / 9,  1.0 / 90, 1.0 / 45,  2.0 / 45,   1.0 / 90, -1.0 / 45, 2.0 / 45, 32.0 / 45,
          16.0 / 45, 8.0 / 45, 32.0 / 45, -16.0 / 45, 8.0 / 45, 0,         0,        1};
}

}  // namespace

Winograd::Winograd(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) : Quantizer(spec) {
  g_ = at::tensor(rows_of_g(options.options.as<WinogradOptions>().tile), at::kDouble).view({-1, 3});
  const at::Tensor transposed = g_.t();
  inverse_ = at::matmul(at::linalg_inv(at::matmul(transposed, g_)), transposed);
}

at::Tensor Winograd::quantize_rows(const at::Tensor& x) const {
  const double levels = spec().hi();
  const at::Tensor values = rows(x);
  const at::Tensor scale = largest_scale(values, levels).view({-1, 1});
  return ((values / scale).round_().clamp_(-levels, levels) * scale).view(x.sizes());
}

at::Tensor Winograd::transformed(const at::Tensor& weight) const {
  const at::NoGradGuard no_grad;
  const at::Tensor u = at::matmul(at::matmul(g_, weight.detach().to(at::kDouble)), g_.t());
  return quantize_rows(u.to(at::kFloat).contiguous());
}

at::Tensor Winograd::fake_quantize(const at::Tensor& x) {
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    if (x.dim() == 4 && x.size(2) == 3 && x.size(3) == 3) {
      y = at::matmul(at::matmul(inverse_, transformed(x).to(at::kDouble)), inverse_.t()).to(at::kFloat);
    } else {
      y = quantize_rows(x.detach().contiguous());
    }
  }
  return autograd::straight_through(y, x);
}

}  // namespace qat::quantizers
