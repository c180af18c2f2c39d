#include "quantizers/pow2.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cmath>

#include "quantizers/observers/diffs.h"
#include "quantizers/observers/range.h"

namespace qat::quantizers {

struct Pow2Options : quant::UniformOptions {
  std::string search = "diffs";
};

}  // namespace qat::quantizers

template <>
struct qat::config::Schema<qat::quantizers::Pow2Options> {
  static void describe(Fields<qat::quantizers::Pow2Options>& f) {
    using T = qat::quantizers::Pow2Options;
    f.field("search", &T::search).doc("which power of two").one_of({"diffs", "overflow", "ceil"});
    quant::describe_uniform(f);
  }
};

namespace qat::quantizers {

Pow2::Pow2(const quant::QuantSpec& spec, const quant::QuantizerOptions& options)
    : UniformQuantizer(spec, options.options.as<Pow2Options>(), quant::GradientRule::kStraightThrough),
      search_(options.options.as<Pow2Options>().search),
      round_(rounding() == ops::Rounding::kStochastic ? "half_even" : options.options.as<Pow2Options>().round),
      scale_(register_buffer("scale", at::ones({spec.scales()}, at::kFloat))),
      zero_point_(register_buffer("zero_point", at::full({spec.scales()}, spec.symmetric_zero_point(), at::kInt))) {
  if (!spec.is_weight()) observer_ = register_module("observer", make_observer());
}

std::shared_ptr<quant::Observer> Pow2::make_observer() const {
  if (search_ == "ceil") return std::make_shared<MinMaxObserver>(quant::ObserverOptions{spec(), {}});
  const config::Node options =
      config::Node::map({{"search", config::Node::scalar(search_)}, {"round", config::Node::scalar(round_)}});
  return std::make_shared<DiffsObserver>(quant::ObserverOptions{spec(), options});
}

double Pow2::step_of(const quant::Observer& observer) const {
  const auto [min, max] = observer.range();
  if (search_ != "ceil") return max / spec().positive_levels();
  const double largest = spec().is_weight() || spec().is_signed ? std::max(-min, max) : max;
  return std::exp2(std::ceil(std::log2(std::max(largest / spec().positive_levels(), quant::kSmallestScale))));
}

void Pow2::observe(const at::Tensor& values) {
  if (observer_) return observer_->observe(values);
  const at::Tensor x = rows(values.detach());
  for (int64_t i = 0; i < spec().scales(); ++i) {
    const std::shared_ptr<quant::Observer> row = make_observer();
    row->observe(x[i]);
    scale_.mutable_data_ptr<float>()[i] = static_cast<float>(step_of(*row));
  }
}

void Pow2::initialize_parameters() {
  if (observer_) scale_.fill_(step_of(*observer_));
}

quant::QParams Pow2::parameters_now() const { return {scale_, zero_point_}; }

}  // namespace qat::quantizers
