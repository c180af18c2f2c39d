#include "core/engine/network.h"

#include <utility>

#include "core/ops/table.h"

namespace qat::engine {
namespace {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;

/// OIHW codes -> [o][h][w][i], zero points subtracted.
std::vector<int16_t> pack(const integer::Weight& w) {
  const auto out = static_cast<size_t>(w.shape[0]), in = static_cast<size_t>(w.shape[1]);
  const size_t taps = w.codes.size() / (out * in);
  std::vector<int16_t> packed(w.codes.size());
  for (size_t o = 0; o < out; ++o) {
    const int32_t zero = w.zero_point[w.zero_point.size() == 1 ? 0 : o];
    for (size_t i = 0; i < in; ++i) {
      for (size_t k = 0; k < taps; ++k) {
        packed[(o * taps + k) * in + i] = static_cast<int16_t>(w.codes[(o * in + i) * taps + k] - zero);
      }
    }
  }
  return packed;
}

/// Empty where codes are copied as they are.
std::vector<int16_t> concat_table(const Tensor& x, const Tensor& y) {
  const ops::CodeRange range{.lo = y.lo, .hi = y.hi, .zero_point = y.zero_point};
  if (x.scale == y.scale && x.zero_point == y.zero_point && x.lo >= y.lo && x.hi <= y.hi) return {};
  return y.type == CodeType::kInt8 ? ops::concat_table<int8_t>(x.scale, x.zero_point, y.scale, range)
                                   : ops::concat_table<uint8_t>(x.scale, x.zero_point, y.scale, range);
}

}  // namespace

Network::Network(integer::IntegerModel given) : model(std::move(given)), prepared(model.nodes.size()) {
  model.check();
  for (size_t n = 0; n < model.nodes.size(); ++n) {
    const Node& node = model.nodes[n];
    if (node.op == Op::kConv || node.op == Op::kLinear) {
      prepared[n].weight = pack(node.weight);
      prepared[n].multiplier = model.multipliers(node);
    }
    if (node.op != Op::kConcat) continue;
    for (const int i : node.inputs) prepared[n].tables.push_back(concat_table(tensor(i), tensor(node.output)));
  }
}

}  // namespace qat::engine
