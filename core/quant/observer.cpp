#include "core/quant/observer.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "core/base/error.h"

namespace qat::quant {
namespace {

void check_finite(double min, double max) {
  QAT_CHECK(
      std::isfinite(min) && std::isfinite(max) && min <= max,
      "expected a finite range of values to quantize, found [{}, {}]: the network diverges or its input is damaged",
      min, max);
}

}  // namespace

Observer::Observer() : batches_(register_buffer("batches", at::zeros({1}, at::kLong))) {}

int64_t Observer::batches() const { return *batches_.const_data_ptr<int64_t>(); }

void Observer::observe(double min, double max) {
  check_finite(min, max);
  QAT_CHECK(takes_ranges(), "this observer needs the values, not only their range");
  add_range(min, max);
  batches_.add_(1);
}

void Observer::observe(const at::Tensor& values) {
  if (values.numel() == 0) return;
  const at::NoGradGuard no_grad;
  const at::Tensor x = values.detach().to(at::kFloat).contiguous();
  const auto [min, max] = at::aminmax(x);
  check_finite(min.item<float>(), max.item<float>());
  add(x, min.item<float>(), max.item<float>());
  batches_.add_(1);
}

std::pair<double, double> Observer::range() const {
  QAT_CHECK(has_data(), "a range was asked of an observer that saw no data: run the calibrate stage first");
  return range_now();
}

void Observer::add_range(double, double) {}

std::optional<RangeForm> Observer::device_form() const {
  std::optional<RangeForm> form = takes_ranges() ? range_form() : std::nullopt;
  if (form) form->batches = batches_;
  return form;
}

}  // namespace qat::quant
