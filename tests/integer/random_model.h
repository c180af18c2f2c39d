// Random networks of all operators, small and odd in every way that the format allows.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/integer/integer_model.h"
#include "core/ops/encode.h"
#include "core/ops/pool.h"
#include "core/ops/table.h"

namespace qat::integer {

/// What a random network is made of.
struct RandomOptions {
  CodeType type = CodeType::kUint8;
  bool ties = false;  // power-of-two scales: exact ties are common
  int operators = 8;  // between the quantizer and the head
  Overflow overflow = Overflow::kExact;
};

class RandomModel {
 public:
  RandomModel(uint64_t seed, RandomOptions options) : random_(seed, 77), options_(options) {
    const std::vector<int64_t> image = {between(1, 5), between(5, 13), between(5, 13)};
    model_.tensors.push_back({.name = "image", .type = CodeType::kFloat32, .shape = image});
    model_.inputs = {0};
    model_.overflow = options.overflow;
    maps_.push_back(append(start(Op::kQuantize, {0}), codes(image, scale(0.03), 8)));
    for (int i = 0; i < options.operators; ++i) grow();
    finish();
    model_.preprocessing = {.mean = std::vector<float>(static_cast<size_t>(image[0]), 0.4f),
                            .std = std::vector<float>(static_cast<size_t>(image[0]), 0.3f)};
    model_.check();
    model_.check_accumulators();
  }

  const IntegerModel& model() const { return model_; }

  /// Images around and beyond the range of the input's codes, NHWC.
  std::vector<float> images(int64_t batch) {
    const Tensor& q = model_.tensors[1];
    std::vector<float> values;
    for (int64_t i = 0; i < batch * q.size(); ++i) {
      const double code = q.lo - q.zero_point + random_.uniform() * 1.1 * (q.hi - q.lo);
      // Some exactly between two codes.
      values.push_back(static_cast<float>(q.scale * (chance(0.3) ? std::floor(code) + 0.5 : code)));
    }
    return values;
  }

 private:
  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_.below(static_cast<uint64_t>(most - least + 1)));
  }
  bool chance(double p) { return random_.uniform() < p; }
  template <class T>
  T pick(const std::vector<T>& from) {
    return from[static_cast<size_t>(between(0, static_cast<int64_t>(from.size()) - 1))];
  }

  float scale(double around) {
    const double s = around * std::exp2(random_.uniform() - 0.5);
    return static_cast<float>(options_.ties ? std::exp2(std::round(std::log2(s))) : s);
  }

  const Tensor& tensor(int index) const { return model_.tensors[static_cast<size_t>(index)]; }

  /// A tensor of b-bit codes: unsigned with zero point 0, signed around the middle, or with any zero point.
  Tensor codes(std::vector<int64_t> shape, float scale, int bits = 0) {
    if (bits == 0) bits = pick<int>({8, 8, 4, 2});
    const int32_t low = options_.type == CodeType::kInt8 ? -(1 << (bits - 1)) : 0;
    Tensor t{.type = options_.type, .shape = std::move(shape), .scale = scale, .lo = low, .hi = low + (1 << bits) - 1};
    const int32_t middle = low + (1 << (bits - 1));
    t.zero_point = pick<int32_t>({low, middle, static_cast<int32_t>(between(t.lo, t.hi))});
    return t;
  }

  Node start(Op op, std::vector<int> inputs) {
    Node node;
    node.op = op;
    node.name = fmt::format("{}.{}", to_string(op), model_.nodes.size());
    node.inputs = std::move(inputs);
    return node;
  }

  int append(Node node, Tensor output) {
    output.name = node.name == "quantize.0" ? "image.codes" : node.name;
    model_.tensors.push_back(std::move(output));
    node.output = static_cast<int>(model_.tensors.size()) - 1;
    model_.nodes.push_back(std::move(node));
    return model_.nodes.back().output;
  }

  /// Half of the codes' reach, in real units: what outputs are scaled to.
  double reach(int index) const {
    const Tensor& t = tensor(index);
    return t.scale * std::max(t.hi - t.zero_point, t.zero_point - t.lo) * 0.5;
  }
  float scale_for(double reach, const Tensor& y) { return scale(2 * reach / (y.hi - y.lo)); }

  void weigh(Node& node, std::vector<int64_t> shape) {
    const Tensor& x = tensor(node.inputs[0]);
    Weight& w = node.weight;
    const int bits = pick<int>({8, 8, 4, 2});
    const int32_t high = (1 << (bits - 1)) - 1;
    const auto channels = static_cast<size_t>(shape[0]);
    w.shape = shape;
    // uint8 weights exist for uint8 activations only.
    const bool may_be_unsigned = x.type == CodeType::kUint8 && options_.overflow == Overflow::kExact;
    w.type = may_be_unsigned && chance(0.1) ? CodeType::kUint8 : CodeType::kInt8;
    const int32_t middle = w.type == CodeType::kUint8 ? static_cast<int32_t>(between(100, 150)) : 0;
    w.zero_point = {middle};
    int64_t size = 1;
    for (const int64_t d : shape) size *= d;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t code = chance(0.1) ? (chance(0.5) ? high : -high) : between(-high, high);
      w.codes.push_back(static_cast<int16_t>(
          std::clamp<int64_t>(middle + code, IntegerModel::lowest(w.type), IntegerModel::highest(w.type))));
    }
    w.scale.resize(channels > 1 && chance(0.7) ? channels : 1);
    for (float& s : w.scale) s = scale(0.5 / high);
    const double typical =
        0.3 * std::sqrt(static_cast<double>(size) / static_cast<double>(channels)) * high * (x.hi - x.lo);
    if (chance(0.8)) {
      for (size_t c = 0; c < channels; ++c) {
        node.bias.push_back(static_cast<int32_t>((random_.uniform() - 0.5) * typical));
      }
    }
    typical_ = typical * static_cast<double>(x.scale) * 0.5 / high;
  }

  Tensor weighted_output(std::vector<int64_t> shape) {
    Tensor y = codes(std::move(shape), 1);
    y.scale = scale_for(0.7 * typical_, y);
    return y;
  }

  void set_window(Node& node, const Tensor& x, bool may_dilate) {
    for (size_t i = 0; i < 2; ++i) {
      node.kernel[i] = std::min<int64_t>(pick<int64_t>({1, 2, 3, 3, 5}), x.shape[1 + i]);
      node.stride[i] = between(1, 2);
      node.dilation[i] = may_dilate && 2 * (node.kernel[i] - 1) < x.shape[1 + i] && chance(0.2) ? 2 : 1;
      node.pad[i] = between(0, node.kernel[i] - 1);
      node.pad[2 + i] = chance(0.5) ? node.pad[i] : between(0, node.kernel[i] - 1);
    }
  }

  static ops::PoolGeometry geometry(const Node& node, const Tensor& x) {
    ops::PoolGeometry g;
    g.in_h = x.shape[1], g.in_w = x.shape[2];
    g.kernel_h = node.kernel[0], g.kernel_w = node.kernel[1];
    g.stride_h = node.stride[0], g.stride_w = node.stride[1];
    g.pad_top = node.pad[0], g.pad_left = node.pad[1], g.pad_bottom = node.pad[2], g.pad_right = node.pad[3];
    g.dilation_h = node.dilation[0], g.dilation_w = node.dilation[1];
    g.ceil_mode = node.ceil_mode;
    return g;
  }

  int conv(int index, bool same_shape = false) {
    const Tensor x = tensor(index);
    Node node = start(Op::kConv, {index});
    const int64_t in = x.shape[0];
    int64_t out = same_shape ? in : between(1, 9);
    if (same_shape) {
      node.kernel = {std::min<int64_t>(3, x.shape[1] | 1), std::min<int64_t>(3, x.shape[2] | 1)};
      node.pad = {node.kernel[0] / 2, node.kernel[1] / 2, node.kernel[0] / 2, node.kernel[1] / 2};
    } else {
      set_window(node, x, true);
      if (x.shape[1] < 12 && x.shape[2] < 12 && chance(0.2)) spread(node, x);
    }
    if (chance(0.4)) {  // depthwise, or any groups
      std::vector<int64_t> divisors;
      for (int64_t d = 1; d <= in; ++d) {
        if (in % d == 0) divisors.push_back(d);
      }
      node.groups = chance(0.5) ? in : pick(divisors);
      out = same_shape ? in : node.groups * between(1, 2);
    }
    weigh(node, {out, in / node.groups, node.kernel[0], node.kernel[1]});
    ops::PoolGeometry g = geometry(node, x);
    if (node.is_spread()) g.in_h = (g.in_h - 1) * node.spread[0] + 1, g.in_w = (g.in_w - 1) * node.spread[1] + 1;
    return append(std::move(node), weighted_output({out, g.out_h(), g.out_w()}));
  }

  /// A transposed convolution, whose padding may take pixels away.
  void spread(Node& node, const Tensor& x) {
    node.stride = {1, 1};
    for (size_t i = 0; i < 2; ++i) {
      node.spread[i] = between(1, 3);
      const int64_t in = (x.shape[1 + i] - 1) * node.spread[i] + 1, reach = node.dilation[i] * (node.kernel[i] - 1);
      const int64_t spare = std::min<int64_t>(2, (in - reach - 1) / 2);  // may go on either side
      node.pad[i] = between(-spare, reach);
      node.pad[2 + i] = between(-spare, reach);
    }
  }

  int pool(int index, Op op) {
    const Tensor x = tensor(index);
    Node node = start(op, {index});
    set_window(node, x, op == Op::kMaxPool);
    node.ceil_mode = chance(0.6);
    ops::PoolGeometry g = geometry(node, x);
    // A last window that would start in the padding, and is dropped for that, has no form in ONNX.
    const auto covers = [](int64_t out, int64_t stride, int64_t dilation, int64_t kernel, int64_t padded) {
      return (out - 1) * stride + dilation * (kernel - 1) + 1 >= padded;
    };
    if (!covers(g.out_h(), g.stride_h, g.dilation_h, g.kernel_h, g.in_h + g.pad_top + g.pad_bottom) ||
        !covers(g.out_w(), g.stride_w, g.dilation_w, g.kernel_w, g.in_w + g.pad_left + g.pad_right)) {
      node.ceil_mode = g.ceil_mode = false;
    }
    Tensor y = x;
    if (op == Op::kAveragePool) {
      node.count_include_pad = chance(0.5);
      y = codes({}, x.scale);
      y.scale = chance(0.3) ? x.scale : std::max(scale_for(reach(index), y), x.scale / 64);
    }
    y.shape = {x.shape[0], g.out_h(), g.out_w()};
    return append(std::move(node), std::move(y));
  }

  int global_pool(int index) {
    Tensor y = codes({tensor(index).shape[0], 1, 1}, 1);
    y.scale = chance(0.3) ? tensor(index).scale : scale_for(0.5 * reach(index), y);
    // ONNX Runtime wants a multiplier below 256.
    y.scale = std::max(y.scale, tensor(index).scale / 64);
    return append(start(Op::kGlobalAveragePool, {index}), std::move(y));
  }

  int combine(Op op, int a, int b) {
    const bool is_wide = tensor(a).size() >= tensor(b).size();
    Tensor y = codes(tensor(is_wide ? a : b).shape, 1);
    y.scale = scale_for(op == Op::kAdd ? reach(a) + reach(b) : reach(a) * reach(b), y);
    return append(start(op, {a, b}), std::move(y));
  }

  int concat(std::vector<int> inputs) {
    std::vector<int64_t> shape = tensor(inputs[0]).shape;
    for (size_t i = 1; i < inputs.size(); ++i) shape[0] += tensor(inputs[i]).shape[0];
    Tensor y = codes(shape, 1);
    y.scale = scale_for(reach(inputs[0]), y);
    if (chance(0.4)) y = tensor(inputs[0]), y.shape = shape;
    return append(start(Op::kConcat, std::move(inputs)), std::move(y));
  }

  int table(int index) {
    const Tensor& x = tensor(index);
    Node node = start(Op::kTable, {index});
    node.function = pick<std::string>({"sigmoid", "leaky_relu", "hardswish", "silu", "hardsigmoid"});
    if (node.function == "leaky_relu") node.alpha = static_cast<double>(pick<float>({0.1f, 0.25f, 0.01f}));
    Tensor y = codes(x.shape, 1);
    const bool is_gate = node.function == "sigmoid" || node.function == "hardsigmoid";
    y.scale = is_gate ? scale(1.0 / (y.hi - y.lo)) : scale_for(reach(index), y);
    const auto alpha = static_cast<float>(node.alpha);
    const auto f = [&](float v) {
      if (node.function == "sigmoid") return ops::sigmoid(v);
      if (node.function == "leaky_relu") return ops::leaky_relu(v, alpha);
      if (node.function == "silu") return ops::silu(v);
      return is_gate ? ops::hardsigmoid(v) : ops::hardswish(v);
    };
    const ops::CodeRange range{.lo = y.lo, .hi = y.hi, .zero_point = y.zero_point};
    node.table = y.type == CodeType::kInt8 ? ops::function_table<int8_t>(x.scale, x.zero_point, y.scale, range, f)
                                           : ops::function_table<uint8_t>(x.scale, x.zero_point, y.scale, range, f);
    return append(std::move(node), std::move(y));
  }

  int slice(int index) {
    Tensor y = tensor(index);
    Node node = start(Op::kChannelSlice, {index});
    const int64_t channels = y.shape[0];
    y.shape[0] = between(1, channels);
    node.begin = between(0, channels - y.shape[0]);
    return append(std::move(node), std::move(y));
  }

  int shuffle(int index) {
    Node node = start(Op::kChannelShuffle, {index});
    std::vector<int64_t> divisors;
    for (int64_t d = 1; d <= tensor(index).shape[0]; ++d) {
      if (tensor(index).shape[0] % d == 0) divisors.push_back(d);
    }
    node.groups = pick(divisors);
    return append(std::move(node), tensor(index));
  }

  /// All maps of the shape of `index`.
  std::vector<int> alike(int index) const {
    std::vector<int> found;
    for (const int i : maps_) {
      if (tensor(i).shape == tensor(index).shape) found.push_back(i);
    }
    return found;
  }

  void grow() {
    const int x = chance(0.7) ? maps_.back() : pick(maps_);
    switch (between(0, 12)) {
      case 0:
      case 1:
        return maps_.push_back(conv(x));
      case 2: {  // a residual block
        const int y = conv(x, true);
        return maps_.push_back(combine(Op::kAdd, y, x));
      }
      case 3:
        return maps_.push_back(combine(chance(0.5) ? Op::kAdd : Op::kMul, x, pick(alike(x))));
      case 4: {  // a gate, or a broadcast sum, on either side
        const int gate = chance(0.5) ? table(global_pool(x)) : global_pool(x);
        const Op op = chance(0.5) ? Op::kAdd : Op::kMul;
        return maps_.push_back(chance(0.5) ? combine(op, x, gate) : combine(op, gate, x));
      }
      case 5: {
        std::vector<int> inputs = {x};
        for (int64_t n = between(1, 2); n > 0; --n) inputs.push_back(chance(0.5) ? conv(x, true) : pick(alike(x)));
        return maps_.push_back(concat(std::move(inputs)));
      }
      case 6:
        return maps_.push_back(pool(x, Op::kMaxPool));
      case 7:
        return maps_.push_back(pool(x, Op::kAveragePool));
      case 8:
        return maps_.push_back(table(x));
      case 9:
        return maps_.push_back(append(start(Op::kRelu, {x}), tensor(x)));
      case 10:
        return maps_.push_back(slice(x));
      case 11:
        return maps_.push_back(shuffle(x));
      default:
        return maps_.push_back(conv(x, true));
    }
  }

  void finish() {
    int x = maps_.back();
    if (chance(0.5)) x = global_pool(x);
    if (chance(0.15)) {  // a dense output
      model_.outputs = {append(start(Op::kDequantize, {x}), floats(tensor(x).shape))};
      return;
    }
    Tensor flat = tensor(x);
    flat.shape = {flat.size()};
    x = append(start(Op::kFlatten, {x}), std::move(flat));
    for (int64_t n = between(0, 1); n > 0; --n) {
      Node node = start(Op::kLinear, {x});
      const int64_t out = between(1, 17);
      weigh(node, {out, tensor(x).shape[0]});
      x = append(std::move(node), weighted_output({out}));
    }
    if (chance(0.7)) {
      Node node = start(Op::kLinear, {x});
      const int64_t out = between(1, 11);
      weigh(node, {out, tensor(x).shape[0]});
      model_.outputs = {append(std::move(node), floats({out}))};
    } else {
      model_.outputs = {append(start(Op::kDequantize, {x}), floats(tensor(x).shape))};
    }
  }

  static Tensor floats(std::vector<int64_t> shape) { return {.type = CodeType::kFloat32, .shape = std::move(shape)}; }

  CounterRng random_;
  RandomOptions options_;
  IntegerModel model_;
  std::vector<int> maps_;  // feature maps so far
  double typical_ = 1;     // of the last accumulators, in real units
};

}  // namespace qat::integer
