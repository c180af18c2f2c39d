#include "quantizers/builtin.h"

#include "core/quant/quantizer.h"
#include "quantizers/lsq.h"
#include "quantizers/minmax.h"
#include "quantizers/observers/minmax.h"

namespace qat::quantizers {
namespace {

template <class Q>
std::shared_ptr<quant::Quantizer> make(const quant::QuantSpec& spec, const quant::QuantizerOptions& options) {
  return std::make_shared<Q>(spec, options);
}

template <class O>
std::shared_ptr<quant::Observer> make_observer() {
  return std::make_shared<O>();
}

bool add_all() {
  auto& q = quant::quantizers();
  q.add("minmax", "range of the data, observed (Jacob et al. 2018)", make<MinMax>);
  q.add("lsq", "learned step size (Esser et al. 2020)", make<Lsq>);

  auto& o = quant::observers();
  o.add("minmax", "smallest and largest value of all batches", make_observer<MinMaxObserver>);
  o.add("moving_average", "moving averages of each batch's smallest and largest value (0.01)",
        make_observer<MovingAverageObserver>);
  return true;
}

}  // namespace

void register_builtin() {
  static const bool done = add_all();
  static_cast<void>(done);
}

}  // namespace qat::quantizers
