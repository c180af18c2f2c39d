#include "core/quant/observer.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/base/error.h"

namespace qat::quant {

Observer::Observer()
    : range_(register_buffer("range", at::zeros({2}, at::kDouble))),
      batches_(register_buffer("batches", at::zeros({1}, at::kLong))) {}

void Observer::observe(double min, double max) {
  QAT_CHECK(
      std::isfinite(min) && std::isfinite(max) && min <= max,
      "expected a finite range of values to quantize, found [{}, {}]: the network diverges or its input is damaged",
      min, max);
  double* range = range_.mutable_data_ptr<double>();
  int64_t& batches = *batches_.mutable_data_ptr<int64_t>();
  const std::pair<double, double> next = batches == 0 ? std::pair{min, max} : combine({range[0], range[1]}, {min, max});
  range[0] = next.first;
  range[1] = next.second;
  ++batches;
}

void Observer::observe(const at::Tensor& values) {
  if (values.numel() == 0) return;
  const auto [min, max] = at::aminmax(values.detach());
  observe(min.item<double>(), max.item<double>());
}

std::pair<double, double> Observer::range() const {
  QAT_CHECK(has_data(), "a range was asked of an observer that saw no data: run the calibrate stage first");
  const double* range = range_.const_data_ptr<double>();
  return {range[0], range[1]};
}

bool Observer::has_data() const { return *batches_.const_data_ptr<int64_t>() > 0; }

}  // namespace qat::quant
