// IntegerModel::check and check_accumulators: what every reader below (engine, exporters, judges) may rely on.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>

#include "core/base/error.h"
#include "core/integer/integer_model.h"

namespace qat::integer {
namespace {

// Bounds that keep every product of sizes far from overflow; no network comes near them.
constexpr int64_t kMaxAttribute = 1 << 16;
constexpr int64_t kMaxElements = int64_t{1} << 31;
constexpr int64_t kMaxPixels = 1 << 23;  // of a global pool: 2^23 * 255 < 2^31

bool is_code(const Tensor& t) { return holds_codes(t.type); }

bool positive(float scale) { return std::isfinite(scale) && scale > 0; }

bool within(int32_t code, CodeType type) {
  return code >= IntegerModel::lowest(type) && code <= IntegerModel::highest(type);
}

std::string text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

void check_tensor(const Tensor& t) {
  QAT_CHECK(t.shape.size() == 1 || t.shape.size() == 3, "tensor {}: expected a shape of 1 or 3 dimensions, found {}",
            t.name, text(t.shape));
  int64_t size = 1;
  for (int64_t d : t.shape) {
    QAT_CHECK(d >= 1 && d <= kMaxElements / size, "tensor {}: bad shape {}", t.name, text(t.shape));
    size *= d;
  }
  if (t.type == CodeType::kFloat32 || t.type == CodeType::kPixels) return;
  QAT_CHECK(is_code(t), "tensor {}: unknown type", t.name);
  QAT_CHECK(positive(t.scale), "tensor {}: expected a finite positive scale, found {}", t.name, t.scale);
  QAT_CHECK(within(t.zero_point, t.type), "tensor {}: zero point {} is not a code of {}", t.name, t.zero_point,
            to_string(t.type));
  QAT_CHECK(t.lo <= t.hi && within(t.lo, t.type) && within(t.hi, t.type),
            "tensor {}: range [{}, {}] is not one of {} codes", t.name, t.lo, t.hi, to_string(t.type));
}

/// Checks one node, all of whose tensor indices are valid.
class NodeCheck {
 public:
  NodeCheck(const IntegerModel& model, const Node& node) : model_(model), node_(node) {
    for (int i : node.inputs) x_.push_back(&model.tensors[static_cast<size_t>(i)]);
    y_ = &model.tensors[static_cast<size_t>(node.output)];
  }

  void run() const {
    const bool binary = node_.op == Op::kAdd || node_.op == Op::kMul;
    const size_t count = binary ? 2 : node_.op == Op::kConcat ? std::max<size_t>(1, x_.size()) : 1;
    require(x_.size() == count, fmt::format("expected {} inputs, found {}", count, x_.size()));
    check_types();
    switch (node_.op) {
      case Op::kQuantize:
      case Op::kDequantize:
        return same_shape();
      case Op::kConv:
        return check_conv();
      case Op::kLinear:
        return check_linear();
      case Op::kAdd:
      case Op::kMul:
        return check_binary();
      case Op::kMaxPool:
        same_parameters();
        contains(x_[0]->lo, x_[0]->hi);
        return check_pool();
      case Op::kAveragePool:
        require(node_.dilation == Node().dilation, "an average pool has no dilation");
        return check_pool();
      case Op::kGlobalAveragePool:
        return check_global_pool();
      case Op::kConcat:
        return check_concat();
      case Op::kTable:
        return check_table();
      case Op::kRelu:
        same_shape();
        same_parameters();
        return contains(std::max(x_[0]->lo, y_->zero_point), std::max(x_[0]->hi, y_->zero_point));
      case Op::kFlatten:
        same_parameters();
        contains(x_[0]->lo, x_[0]->hi);
        return require(y_->shape == std::vector<int64_t>{x_[0]->size()},
                       fmt::format("expected output shape [{}], found {}", x_[0]->size(), text(y_->shape)));
      case Op::kChannelSlice:
      case Op::kChannelShuffle:
        same_parameters();
        contains(x_[0]->lo, x_[0]->hi);
        return node_.op == Op::kChannelSlice ? check_slice() : check_shuffle();
    }
    require(false, "unknown operator");
  }

 private:
  void require(bool condition, const std::string& message) const {
    QAT_CHECK(condition, "{} ({}): {}", node_.name, to_string(node_.op), message);
  }

  void check_types() const {
    if (node_.op == Op::kQuantize) {
      require(!is_code(*x_[0]) && is_code(*y_), "expected float32 or pixels in and codes out");
      return check_pixels();
    }
    for (const Tensor* x : x_) {
      require(is_code(*x), fmt::format("input {} must hold codes, found {}", x->name, to_string(x->type)));
    }
    if (node_.op == Op::kDequantize) return require(y_->type == CodeType::kFloat32, "expected float32 out");
    if (node_.op == Op::kLinear && y_->type == CodeType::kFloat32) return;
    for (const Tensor* x : x_) {
      require(x->type == y_->type, fmt::format("{} is {}, the output {} is {}: one storage type per network", x->name,
                                               to_string(x->type), y_->name, to_string(y_->type)));
    }
  }

  void check_pixels() const {
    if (x_[0]->type != CodeType::kPixels) return;
    rank(*x_[0], 3);
    const size_t means = model_.preprocessing.mean.size(), channels = static_cast<size_t>(x_[0]->shape[0]);
    require(means == 0 || means == channels,
            fmt::format("pixels of {} channels, but the preprocessing has {} means", channels, means));
  }

  void same_shape() const {
    require(x_[0]->shape == y_->shape,
            fmt::format("expected output shape {}, found {}", text(x_[0]->shape), text(y_->shape)));
  }

  void same_parameters() const {
    require(x_[0]->scale == y_->scale && x_[0]->zero_point == y_->zero_point,
            fmt::format("input and output must have the same scale and zero point, found {} and {}, {} and {}",
                        x_[0]->scale, y_->scale, x_[0]->zero_point, y_->zero_point));
  }

  /// Codes passed on must lie in the output's range.
  void contains(int32_t lo, int32_t hi) const {
    require(y_->lo <= lo && hi <= y_->hi,
            fmt::format("codes [{}, {}] are passed on, but the output's range is [{}, {}]", lo, hi, y_->lo, y_->hi));
  }

  void rank(const Tensor& t, size_t expected) const {
    require(t.shape.size() == expected,
            fmt::format("{} must have {} dimensions, found {}", t.name, expected, text(t.shape)));
  }

  /// Weight, bias and multipliers, for `channels` outputs of `depth` products each.
  void check_weight(const std::vector<int64_t>& shape) const {
    const Weight& w = node_.weight;
    require(w.shape == shape, fmt::format("expected weight shape {}, found {}", text(shape), text(w.shape)));
    int64_t size = 1;
    for (int64_t d : shape) {
      require(d >= 1 && d <= kMaxElements / size, fmt::format("bad weight shape {}", text(shape)));
      size *= d;
    }
    const auto channels = static_cast<size_t>(shape[0]);
    require(w.codes.size() == static_cast<size_t>(size),
            fmt::format("expected {} weight codes, found {}", size, w.codes.size()));
    require(w.type == CodeType::kInt8 || w.type == CodeType::kUint8, "weights must be int8 or uint8");
    const auto outside = std::ranges::find_if(w.codes, [&](int16_t code) { return !within(code, w.type); });
    if (outside != w.codes.end()) {
      require(false, fmt::format("weight code {} is not one of {}", *outside, to_string(w.type)));
    }
    require(w.scale.size() == 1 || w.scale.size() == channels,
            fmt::format("expected 1 or {} weight scales, found {}", channels, w.scale.size()));
    require(w.zero_point.size() == 1 || w.zero_point.size() == channels,
            fmt::format("expected 1 or {} weight zero points, found {}", channels, w.zero_point.size()));
    for (float s : w.scale) require(positive(s), fmt::format("weight scale {} is not finite and positive", s));
    for (int32_t z : w.zero_point) {
      require(within(z, w.type), fmt::format("weight zero point {} is not a code of {}", z, to_string(w.type)));
    }
    require(node_.bias.empty() || node_.bias.size() == channels,
            fmt::format("expected {} biases or none, found {}", channels, node_.bias.size()));
    for (float m : model_.multipliers(node_)) require(std::isfinite(m), "a multiplier overflows float32");
    require(
        model_.overflow == Overflow::kExact || (x_[0]->type == CodeType::kUint8 && w.type == CodeType::kInt8 &&
                                                std::ranges::all_of(w.zero_point, [](int32_t z) { return z == 0; })),
        "sums that saturate are those of uint8 codes and int8 weights with zero point 0");
  }

  /// Output size along one axis; the last window of ceil mode must start in the input or its leading padding.
  int64_t window(size_t axis) const {
    const int64_t apart = node_.is_spread() ? node_.spread[axis] : 1, lowest = node_.is_spread() ? -kMaxAttribute : 0;
    const int64_t in = (x_[0]->shape[1 + axis] - 1) * apart + 1;
    const int64_t kernel = node_.kernel[axis], stride = node_.stride[axis];
    const int64_t before = node_.pad[axis], after = node_.pad[axis + 2], dilation = node_.dilation[axis];
    for (int64_t v : {kernel, stride, dilation}) {
      require(v >= 1 && v <= kMaxAttribute, fmt::format("kernel, stride or dilation {} is out of range", v));
    }
    for (int64_t v : {before, after}) {
      require(v >= lowest && v <= kMaxAttribute, fmt::format("padding {} is out of range", v));
    }
    const int64_t room = in + before + after - dilation * (kernel - 1) - 1;
    require(room >= 0, "the kernel is larger than the padded input");
    int64_t out = (node_.ceil_mode ? room + stride - 1 : room) / stride + 1;
    if (node_.ceil_mode && (out - 1) * stride >= in + before) --out;
    return out;
  }

  void check_output(const std::vector<int64_t>& shape) const {
    require(y_->shape == shape, fmt::format("expected output shape {}, found {}", text(shape), text(y_->shape)));
  }

  void check_conv() const {
    rank(*x_[0], 3);
    rank(*y_, 3);
    const int64_t in = x_[0]->shape[0], out = y_->shape[0];
    require(node_.groups >= 1 && in % node_.groups == 0 && out % node_.groups == 0,
            fmt::format("{} groups do not divide {} inputs and {} outputs", node_.groups, in, out));
    require(!node_.ceil_mode, "a convolution has no ceil mode");
    for (const int64_t apart : node_.spread) {
      const bool valid = node_.is_spread() ? apart >= 1 && apart <= kMaxAttribute : apart == 0;
      require(valid, fmt::format("pixels {} apart are out of range", apart));
    }
    require(!node_.is_spread() || node_.stride == Node().stride, "a spread map is read with a stride of 1");
    check_output({out, window(0), window(1)});
    check_weight({out, in / node_.groups, node_.kernel[0], node_.kernel[1]});
  }

  void check_linear() const {
    rank(*x_[0], 1);
    rank(*y_, 1);
    check_weight({y_->shape[0], x_[0]->shape[0]});
  }

  void check_binary() const {
    const auto &a = x_[0]->shape, &b = x_[1]->shape;
    const bool broadcast_a = a.size() == 3 && b.size() == 3 && a[0] == b[0] && a[1] == 1 && a[2] == 1;
    const bool broadcast_b = a.size() == 3 && b.size() == 3 && a[0] == b[0] && b[1] == 1 && b[2] == 1;
    require(a == b || broadcast_a || broadcast_b,
            fmt::format("shapes {} and {} are neither equal nor is one of them [C, 1, 1]", text(a), text(b)));
    check_output(broadcast_a ? b : a);
    const float ratio_a = x_[0]->scale / y_->scale, ratio_b = x_[1]->scale / y_->scale;
    const float product = x_[0]->scale * x_[1]->scale;
    // 2^100: no sum of products with codes can overflow.
    constexpr float kMaxRatio = 0x1p100f;
    require(node_.op == Op::kAdd ? ratio_a <= kMaxRatio && ratio_b <= kMaxRatio : product / y_->scale <= kMaxRatio,
            "the ratio of input and output scales overflows float32");
  }

  void check_pool() const {
    rank(*x_[0], 3);
    for (size_t i = 0; i < 4; ++i) {
      require(node_.pad[i] < node_.kernel[i % 2], "padding must be smaller than the kernel: a window needs a pixel");
    }
    require(node_.kernel[0] <= kMaxAttribute && node_.kernel[1] <= kMaxAttribute &&
                node_.kernel[0] * node_.kernel[1] <= kMaxAttribute,
            "the kernel is too large");
    check_output({x_[0]->shape[0], window(0), window(1)});
  }

  void check_global_pool() const {
    rank(*x_[0], 3);
    const int64_t pixels = x_[0]->shape[1] * x_[0]->shape[2];
    require(pixels < kMaxPixels, fmt::format("{} pixels could overflow the sum of codes", pixels));
    check_output({x_[0]->shape[0], 1, 1});
    const float divisor = y_->scale * static_cast<float>(pixels);
    require(positive(divisor) && std::isfinite(x_[0]->scale / divisor), "the multiplier overflows float32");
  }

  void check_concat() const {
    std::vector<int64_t> shape = x_[0]->shape;
    for (size_t i = 1; i < x_.size(); ++i) {
      require(
          x_[i]->shape.size() == shape.size() && std::equal(shape.begin() + 1, shape.end(), x_[i]->shape.begin() + 1),
          fmt::format("shapes {} and {} differ beyond the channels", text(shape), text(x_[i]->shape)));
      shape[0] += x_[i]->shape[0];
    }
    check_output(shape);
  }

  void check_slice() const {
    rank(*x_[0], 3);
    rank(*y_, 3);
    const int64_t channels = x_[0]->shape[0], taken = y_->shape[0];
    require(node_.begin >= 0 && taken <= channels && node_.begin <= channels - taken,
            fmt::format("channels [{}, {} + {}) are not among {}", node_.begin, node_.begin, taken, channels));
    check_output({taken, x_[0]->shape[1], x_[0]->shape[2]});
  }

  void check_shuffle() const {
    rank(*x_[0], 3);
    require(node_.groups >= 1 && x_[0]->shape[0] % node_.groups == 0,
            fmt::format("{} groups do not divide {} channels", node_.groups, x_[0]->shape[0]));
    same_shape();
  }

  void check_table() const {
    same_shape();
    require(!node_.function.empty(), "the table's function has no name");
    require(std::isfinite(node_.alpha), "alpha is not finite");
    require(node_.table.size() == 256, fmt::format("expected a table of 256 codes, found {}", node_.table.size()));
    for (int16_t code : node_.table) {
      require(code >= y_->lo && code <= y_->hi,
              fmt::format("table code {} lies outside the output's range [{}, {}]", code, y_->lo, y_->hi));
    }
  }

  const IntegerModel& model_;
  const Node& node_;
  std::vector<const Tensor*> x_;
  const Tensor* y_;
};

void check_preprocessing(const Preprocessing& p, const Tensor& output) {
  QAT_CHECK(p.mean.size() == p.std.size(), "preprocessing: {} means but {} standard deviations", p.mean.size(),
            p.std.size());
  for (float mean : p.mean) QAT_CHECK(std::isfinite(mean), "preprocessing: mean {} is not finite", mean);
  for (float std : p.std) QAT_CHECK(positive(std), "preprocessing: standard deviation {} is not positive", std);
  QAT_CHECK(std::ssize(p.classes) <= output.size(), "preprocessing: {} classes for {} outputs", p.classes.size(),
            output.size());
}

}  // namespace

void IntegerModel::check() const {
  std::set<std::string> names;
  for (const Tensor& t : tensors) {
    QAT_CHECK(!t.name.empty() && names.insert(t.name).second, "tensor name '{}' is empty or used twice", t.name);
    check_tensor(t);
  }
  QAT_CHECK(!inputs.empty() && !outputs.empty(), "a model needs inputs and outputs, found {} and {}", inputs.size(),
            outputs.size());
  const auto valid = [&](int i) { return i >= 0 && static_cast<size_t>(i) < tensors.size(); };
  std::vector<char> defined(tensors.size(), 0);
  for (int i : inputs) {
    QAT_CHECK(valid(i) && !defined[static_cast<size_t>(i)], "input index {} is out of range or repeated", i);
    defined[static_cast<size_t>(i)] = 1;
  }
  names.clear();
  for (const Node& node : nodes) {
    const char* op = to_string(node.op);
    QAT_CHECK(!node.name.empty() && names.insert(node.name).second, "node name '{}' ({}) is empty or used twice",
              node.name, op);
    for (int i : node.inputs) {
      QAT_CHECK(valid(i), "{} ({}): input index {} is out of range, there are {} tensors", node.name, op, i,
                tensors.size());
      QAT_CHECK(defined[static_cast<size_t>(i)], "{} ({}): input {} is used before it is made", node.name, op,
                tensors[static_cast<size_t>(i)].name);
    }
    QAT_CHECK(valid(node.output), "{} ({}): output index {} is out of range, there are {} tensors", node.name, op,
              node.output, tensors.size());
    QAT_CHECK(!defined[static_cast<size_t>(node.output)], "{} ({}): tensor {} is written twice", node.name, op,
              tensors[static_cast<size_t>(node.output)].name);
    QAT_CHECK(tensors[static_cast<size_t>(node.output)].type != CodeType::kPixels,
              "{} ({}): tensor {} holds pixels, which only an input can", node.name, op,
              tensors[static_cast<size_t>(node.output)].name);
    NodeCheck(*this, node).run();
    defined[static_cast<size_t>(node.output)] = 1;
  }
  for (size_t i = 0; i < tensors.size(); ++i) QAT_CHECK(defined[i], "tensor {} is never made", tensors[i].name);
  for (int i : outputs) {
    QAT_CHECK(valid(i), "output index {} is out of range", i);
    QAT_CHECK(tensors[static_cast<size_t>(i)].type != CodeType::kPixels, "output {} holds pixels",
              tensors[static_cast<size_t>(i)].name);
  }
  check_preprocessing(preprocessing, tensors[static_cast<size_t>(outputs[0])]);
}

void IntegerModel::check_accumulators() const {
  for (const Node& node : nodes) {
    if (node.op != Op::kConv && node.op != Op::kLinear) continue;
    const Tensor& x = tensors.at(static_cast<size_t>(node.inputs.at(0)));
    const int64_t reach = overflow == Overflow::kExact
                              ? std::max(std::abs(int64_t{x.lo} - x.zero_point), std::abs(int64_t{x.hi} - x.zero_point))
                              : int64_t{std::max(x.hi, x.zero_point)} + x.zero_point;
    const Weight& w = node.weight;
    const size_t channels = static_cast<size_t>(w.shape.at(0)), depth = w.codes.size() / channels;
    for (size_t c = 0; c < channels; ++c) {
      const int32_t zero = w.zero_point[w.zero_point.size() == 1 ? 0 : c];
      int64_t sum = 0;
      for (size_t k = 0; k < depth; ++k) sum += std::abs(w.codes[c * depth + k] - zero);
      const int64_t bound = (node.bias.empty() ? 0 : std::abs(int64_t{node.bias[c]})) + sum * reach;
      QAT_CHECK(bound <= std::numeric_limits<int32_t>::max(),
                "{} ({}): accumulators of channel {} can reach {}, beyond int32: raise its weight scale or lower its "
                "bias",
                node.name, to_string(node.op), c, bound);
    }
  }
}

}  // namespace qat::integer
