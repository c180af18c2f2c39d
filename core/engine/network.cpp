#include "core/engine/network.h"

#include <array>
#include <tuple>
#include <utility>

#include "core/integer/pixels.h"
#include "core/ops/encode.h"
#include "core/ops/table.h"

namespace qat::engine {
namespace {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;

/// OIHW codes -> [o][h][w][i], zero points subtracted.
std::vector<int16_t> centred(const integer::Weight& w) {
  const auto out = static_cast<size_t>(w.shape[0]), in = static_cast<size_t>(w.shape[1]);
  const size_t taps = w.codes.size() / (out * in);
  std::vector<int16_t> weights(w.codes.size());
  for (size_t o = 0; o < out; ++o) {
    const int32_t zero = w.zero_point[w.zero_point.size() == 1 ? 0 : o];
    for (size_t i = 0; i < in; ++i) {
      for (size_t k = 0; k < taps; ++k) {
        weights[(o * taps + k) * in + i] = static_cast<int16_t>(w.codes[(o * in + i) * taps + k] - zero);
      }
    }
  }
  return weights;
}

template <class Code>
void pack(const Node& node, const Tensor& x, const Tensor& y, Weights weights, Prepared& prepared) {
  prepared.convolution<Code>().emplace(conv_geometry(node, x, y), centred(node.weight).data(), x.zero_point, x.hi);
  if (weights == Weights::kSmall) prepared.convolution<Code>()->shrink();
}

/// Empty where codes are copied as they are.
std::vector<int16_t> concat_table(const Tensor& x, const Tensor& y) {
  const ops::CodeRange range{.lo = y.lo, .hi = y.hi, .zero_point = y.zero_point};
  if (x.scale == y.scale && x.zero_point == y.zero_point && x.lo >= y.lo && x.hi <= y.hi) return {};
  return y.type == CodeType::kInt8 ? ops::concat_table<int8_t>(x.scale, x.zero_point, y.scale, range)
                                   : ops::concat_table<uint8_t>(x.scale, x.zero_point, y.scale, range);
}

/// The codes of each channel's pixels.
template <class Code>
std::vector<std::vector<int16_t>> pixel_tables(const integer::Preprocessing& preprocessing, int64_t channels,
                                               const Tensor& y) {
  std::vector<std::vector<int16_t>> tables;
  for (int64_t c = 0; c < channels; ++c) {
    const std::array<float, 256> values = integer::pixel_values(preprocessing, c);
    std::array<Code, values.size()> codes;
    ops::encode(values.data(), std::ssize(values), y.scale, {.lo = y.lo, .hi = y.hi, .zero_point = y.zero_point},
                codes.data());
    tables.emplace_back(codes.begin(), codes.end());
  }
  return tables;
}

}  // namespace

ops::ConvGeometry conv_geometry(const Node& node, const Tensor& x, const Tensor& y) {
  ops::ConvGeometry g;
  g.in_c = x.shape[0];
  g.out_c = y.shape[0];
  if (node.op == Op::kLinear) return g;
  g.in_h = x.shape[1];
  g.in_w = x.shape[2];
  std::tie(g.kernel_h, g.kernel_w) = std::pair(node.kernel[0], node.kernel[1]);
  std::tie(g.stride_h, g.stride_w) = std::pair(node.stride[0], node.stride[1]);
  std::tie(g.dilation_h, g.dilation_w) = std::pair(node.dilation[0], node.dilation[1]);
  g.groups = node.groups;
  if (node.is_spread()) {
    const ops::SpreadGeometry spread = spread_geometry(node, x);
    g.in_h = spread.out_h(), g.in_w = spread.out_w();
    return g;
  }
  std::tie(g.pad_top, g.pad_left) = std::pair(node.pad[0], node.pad[1]);
  std::tie(g.pad_bottom, g.pad_right) = std::pair(node.pad[2], node.pad[3]);
  return g;
}

ops::SpreadGeometry spread_geometry(const Node& node, const Tensor& x) {
  return {.in_h = x.shape[1],
          .in_w = x.shape[2],
          .channels = x.shape[0],
          .step_h = node.spread[0],
          .step_w = node.spread[1],
          .pad_top = node.pad[0],
          .pad_left = node.pad[1],
          .pad_bottom = node.pad[2],
          .pad_right = node.pad[3]};
}

Network::Network(integer::IntegerModel given, Weights weights) : model(std::move(given)), prepared(model.nodes.size()) {
  model.check();
  for (size_t n = 0; n < model.nodes.size(); ++n) {
    Node& node = model.nodes[n];
    if (node.op == Op::kConv || node.op == Op::kLinear) {
      const Tensor &x = tensor(node.inputs[0]), &y = tensor(node.output);
      if (model.overflow == integer::Overflow::kSaturate16 && !ops::never_saturates(conv_geometry(node, x, y))) {
        const std::vector<int16_t> codes = centred(node.weight);
        const std::vector<int8_t> narrow(codes.begin(), codes.end());
        prepared[n].saturating.emplace(conv_geometry(node, x, y), narrow.data(), x.zero_point);
      } else {
        x.type == CodeType::kInt8 ? pack<int8_t>(node, x, y, weights, prepared[n])
                                  : pack<uint8_t>(node, x, y, weights, prepared[n]);
      }
      prepared[n].multiplier = model.multipliers(node);
      node.weight.codes = std::vector<int16_t>();  // packed: once in memory is enough
    }
    if (node.op == Op::kQuantize && tensor(node.inputs[0]).type == CodeType::kPixels) {
      const Tensor &x = tensor(node.inputs[0]), &y = tensor(node.output);
      prepared[n].tables = y.type == CodeType::kInt8
                               ? pixel_tables<int8_t>(model.preprocessing, x.shape[0], y)
                               : pixel_tables<uint8_t>(model.preprocessing, x.shape[0], y);
    }
    if (node.op != Op::kConcat) continue;
    for (const int i : node.inputs) prepared[n].tables.push_back(concat_table(tensor(i), tensor(node.output)));
  }
}

}  // namespace qat::engine
