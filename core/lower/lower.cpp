#include "core/lower/lower.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/nn/pointwise.h"
#include "core/nn/weighted.h"
#include "core/ops/table.h"

namespace qat::lower {
namespace {

using graph::GraphModule;
using integer::CodeType;
using integer::IntegerModel;
using integer::Op;

class Lowering {
 public:
  explicit Lowering(const GraphModule& net) : net_(net) {}

  IntegerModel run(const integer::Preprocessing& preprocessing) {
    refuse_float_layers();
    const auto& steps = net_.steps();
    tensors_.assign(steps.size(), -1);
    for (size_t i = 0; i < steps.size(); ++i) {
      if (net_.is_needed(static_cast<int>(i))) lower_step(static_cast<int>(i));
    }
    int output = tensors_[net_.output_step()];
    if (model_.tensors[output].type != CodeType::kFloat32) output = dequantize(output);
    model_.outputs = {output};
    model_.preprocessing = preprocessing;
    model_.check();
    model_.check_accumulators();
    return std::move(model_);
  }

 private:
  /// Layers that pass scale and zero point on.
  static const std::map<std::string, Op>& passing_operators() {
    static const std::map<std::string, Op> operators{{"relu", Op::kRelu},
                                                     {"max_pool2d", Op::kMaxPool},
                                                     {"flatten", Op::kFlatten},
                                                     {"channel_slice", Op::kChannelSlice},
                                                     {"channel_shuffle", Op::kChannelShuffle}};
    return operators;
  }

  bool has_codes(int step) const {
    return net_.steps()[step].layer->output_quantizer() != nullptr || passes_codes(step);
  }
  bool passes_codes(int step) const {
    const auto& s = net_.steps()[step];
    return s.layer->passes_through() && !s.layer->excluded() && s.layer->output_quantizer() == nullptr &&
           has_codes(s.inputs[0]);
  }

  bool has_integer_form(int i) const {
    const auto& step = net_.steps()[i];
    const nn::QLayer& layer = *step.layer;
    if (step.inputs.empty()) return layer.output_quantizer() != nullptr;
    if (layer.excluded() || !layer.values_reason().empty()) return false;
    if (layer.is_identity_in_evaluation()) return true;  // of floats too
    for (const int input : step.inputs) {
      if (!has_codes(input)) return false;
    }
    if (layer.passes_through()) {
      return layer.output_quantizer() == nullptr && passing_operators().count(layer.type()) != 0;
    }
    if (const auto* weighted = dynamic_cast<const nn::WeightedLayer*>(&layer)) {
      const bool matches = layer.type() == "conv2d" || layer.type() == "conv_transpose2d" ||
                           (weighted->is_linear() && step.sizes.size() == 1);
      return matches && layer.weight_quantizer() != nullptr &&
             (layer.output_quantizer() != nullptr || weighted->is_linear());
    }
    static const std::set<std::string> types{"add", "mul", "concat", "requantize", "avg_pool2d", "global_avg_pool2d"};
    const auto* activation = dynamic_cast<const nn::ActivationLayer*>(&layer);
    const bool is_table = activation != nullptr && activation->is_table();
    return layer.output_quantizer() != nullptr && (is_table || types.count(layer.type()) != 0);
  }

  void refuse_float_layers() const {
    std::vector<std::string> found;
    for (size_t i = 0; i < net_.steps().size(); ++i) {
      if (!net_.is_needed(static_cast<int>(i))) continue;
      const nn::QLayer& layer = *net_.steps()[i].layer;
      if (has_integer_form(static_cast<int>(i))) continue;
      const std::string reason = layer.values_reason().empty() ? "" : "; " + layer.values_reason();
      found.push_back(layer.label() + " (" + layer.type() + reason + ")");
    }
    if (found.empty()) return;
    throw ExportError(
        fmt::format("{} cannot be lowered to integers: layers in float: {}", found.front(), join(found, ", ")));
  }

  int add_tensor(integer::Tensor tensor) {
    model_.tensors.push_back(std::move(tensor));
    return static_cast<int>(model_.tensors.size()) - 1;
  }

  /// The tensor that a layer's own quantizer makes.
  int codes_tensor(const std::string& name, std::vector<int64_t> sizes, const quant::Quantizer& quantizer,
                   bool of_accumulators = false) {
    const quant::Traits traits = quantizer.traits();
    if (!traits.affine || !(traits.integer_levels || (of_accumulators && traits.is_sign))) {
      throw ExportError(fmt::format("{}: cannot be lowered: the target gives a value its nearest code, {} another one",
                                    name, quantizer.method()));
    }
    const quant::QParams params = quantizer.qparams();
    return add_tensor({.name = name,
                       .type = CodeType::kUint8,
                       .shape = std::move(sizes),
                       .scale = *params.scale.const_data_ptr<float>(),
                       .zero_point = *params.zero_point.const_data_ptr<int32_t>(),
                       .lo = quantizer.spec().lo(),
                       .hi = quantizer.spec().hi()});
  }

  void finish(int step, integer::Node node, int output) {
    for (const int input : net_.steps()[step].inputs) node.inputs.push_back(tensors_[input]);
    node.name = net_.steps()[step].layer->label();
    node.output = output;
    model_.nodes.push_back(std::move(node));
    tensors_[step] = output;
  }

  int dequantize(int codes) {
    integer::Tensor values{.name = model_.tensors[codes].name + ".values", .type = CodeType::kFloat32};
    values.shape = model_.tensors[codes].shape;
    const int output = add_tensor(std::move(values));
    integer::Node node{.op = Op::kDequantize, .name = model_.tensors[output].name, .inputs = {codes}};
    node.output = output;
    model_.nodes.push_back(std::move(node));
    return output;
  }

  void lower_step(int i) {
    const auto& step = net_.steps()[i];
    const nn::QLayer& layer = *step.layer;
    const std::string& name = layer.label();
    if (step.inputs.empty()) {
      const int values = add_tensor({.name = name, .type = CodeType::kFloat32, .shape = step.sizes});
      model_.inputs = {values};
      const int codes = codes_tensor(name + ".codes", step.sizes, *layer.output_quantizer());
      integer::Node node{.op = Op::kQuantize, .name = name + ".codes", .inputs = {values}};
      node.output = codes;
      model_.nodes.push_back(std::move(node));
      tensors_[i] = codes;
    } else if (const auto* weighted = dynamic_cast<const nn::WeightedLayer*>(&layer)) {
      lower_weighted(i, *weighted);
    } else if (layer.is_identity_in_evaluation()) {
      tensors_[i] = tensors_[step.inputs[0]];
    } else if (layer.passes_through()) {
      integer::Tensor tensor = model_.tensors[tensors_[step.inputs[0]]];
      tensor.name = name;
      tensor.shape = step.sizes;
      integer::Node node{.op = passing_operators().at(layer.type())};
      if (const auto* pool = dynamic_cast<const nn::QMaxPool2d*>(&layer)) set_pool(node, pool->pool());
      if (const auto* move = dynamic_cast<const nn::QMove*>(&layer)) {
        if (node.op == Op::kChannelSlice) node.begin = move->parameter();
        if (node.op == Op::kChannelShuffle) node.groups = move->parameter();
      }
      finish(i, std::move(node), add_tensor(std::move(tensor)));
    } else {
      integer::Node node;
      const int output = codes_tensor(name, step.sizes, *layer.output_quantizer());
      if (const auto* pool = dynamic_cast<const nn::QAvgPool2d*>(&layer)) {
        node.op = Op::kAveragePool;
        set_pool(node, pool->pool());
      } else if (const auto* activation = dynamic_cast<const nn::ActivationLayer*>(&layer)) {
        node.op = Op::kTable;
        set_table(node, activation->activation(), model_.tensors[tensors_[step.inputs[0]]], model_.tensors[output]);
      } else {
        static const std::map<std::string, Op> ops{{"add", Op::kAdd},
                                                   {"mul", Op::kMul},
                                                   {"concat", Op::kConcat},
                                                   {"requantize", Op::kTable},
                                                   {"global_avg_pool2d", Op::kGlobalAveragePool}};
        node.op = ops.at(layer.type());
        if (node.op == Op::kTable) {
          const integer::Tensor &x = model_.tensors[tensors_[step.inputs[0]]], &y = model_.tensors[output];
          node.function = layer.type();
          node.table = ops::concat_table<uint8_t>(x.scale, x.zero_point, y.scale, {y.lo, y.hi, y.zero_point});
        }
      }
      finish(i, std::move(node), output);
    }
  }

  static void set_pool(integer::Node& node, const autograd::Pool2d& pool) {
    node.kernel = pool.kernel;
    node.stride = pool.stride;
    node.pad = {pool.padding[0], pool.padding[1], pool.padding[0], pool.padding[1]};
    node.dilation = pool.dilation;
    node.ceil_mode = pool.ceil_mode;
    node.count_include_pad = pool.count_include_pad;
  }

  static void set_table(integer::Node& node, const nn::Activation& f, const integer::Tensor& x,
                        const integer::Tensor& y) {
    const autograd::TableFunction function = *f.table();
    node.function = function.name;
    if (f.kind == nn::Activation::Kind::kLeakyRelu) node.alpha = static_cast<float>(f.slope);
    node.table =
        ops::function_table<uint8_t>(x.scale, x.zero_point, y.scale, {y.lo, y.hi, y.zero_point}, function.value);
  }

  void lower_weighted(int i, const nn::WeightedLayer& layer) {
    const auto& step = net_.steps()[i];
    const integer::Tensor& x = model_.tensors[tensors_[step.inputs[0]]];
    const auto [weight, call] = layer.quantized();
    const std::vector<int64_t> sizes = weight.codes.sizes().vec();
    const ops::Folded folded = autograd::fold(weight, call, x.scale);
    if (call.saturates) model_.overflow = integer::Overflow::kSaturate16;

    // Codes come in the kernels' layout (output, kernel, input); files and this model have (output, input, kernel).
    at::Tensor codes = autograd::empty_kernel_layout(sizes, at::kChar);
    std::copy(folded.codes.begin(), folded.codes.end(), codes.mutable_data_ptr<int8_t>());
    if (layer.geometry().transposed) codes = codes.flip({2, 3});
    codes = codes.contiguous();
    const int8_t* data = codes.const_data_ptr<int8_t>();

    integer::Node node;
    node.op = sizes.size() == 4 ? Op::kConv : Op::kLinear;
    if (sizes.size() == 4) {
      const nn::ConvGeometry& g = layer.geometry();
      node.kernel = {sizes[2], sizes[3]};
      node.dilation = {g.dilation[0], g.dilation[1]};
      node.groups = g.groups;
      if (g.transposed) {
        const ops::SpreadGeometry spread = autograd::spread_geometry(g, {1, sizes[1], 1, 1}, {sizes[2], sizes[3]});
        node.spread = {spread.step_h, spread.step_w};
        node.pad = {spread.pad_top, spread.pad_left, spread.pad_bottom, spread.pad_right};
      } else {
        node.stride = {g.stride[0], g.stride[1]};
        node.pad = {g.padding[0], g.padding[1], g.padding[0], g.padding[1]};
      }
    }
    node.weight = {.type = CodeType::kInt8,
                   .shape = sizes,
                   .codes = {data, data + codes.numel()},
                   .scale = folded.scale,
                   .zero_point = {0}};
    if (layer.weight_quantizer()->spec().reduce_range &&
        std::ranges::any_of(node.weight.codes, [](int16_t code) { return std::abs(code) > 64; })) {
      throw ExportError(fmt::format("{}: a weight's code exceeds the reduced range", layer.label()));
    }
    node.bias = folded.bias;
    if (layer.output_quantizer() && layer.output_quantizer()->traits().is_sign) {
      const bool reduced = layer.weight_quantizer()->spec().reduce_range;
      make_threshold(node, x.scale, *layer.output_quantizer()->qparams().scale.const_data_ptr<float>(), layer.label(),
                     reduced          ? "the reduced range"
                     : call.saturates ? "what never saturates"
                                      : nullptr);
    }
    const int output =
        layer.output_quantizer()
            ? codes_tensor(layer.label(), step.sizes, *layer.output_quantizer(), /*of_accumulators=*/true)
            : add_tensor({.name = layer.label(), .type = CodeType::kFloat32, .shape = step.sizes});
    finish(i, std::move(node), output);
  }

  /// The sign of an accumulator a (0 counts as positive) as the target's requantization: that of 2 a + 1, which is odd,
  /// times a multiplier of 1 or more, in the codes next to the zero point. What a weight's scale was is lost: a sign
  /// does not depend on it. `narrow` names what allows codes within 64 only; null: all of int8. (A saturated sum of
  /// doubled products is not twice the saturated sum.)
  static void make_threshold(integer::Node& node, float input_scale, float output_scale, const std::string& name,
                             const char* narrow) {
    const int lowest = narrow ? -32 : -64, highest = narrow ? 32 : 63;
    for (int16_t& code : node.weight.codes) {
      if (code < lowest || code > highest) {
        throw ExportError(
            fmt::format("{}: cannot be lowered: twice its weight's code {} exceeds {}, and the sign of "
                        "an accumulator needs it: use {} bits there",
                        name, code, narrow ? narrow : "int8", narrow ? 6 : 7));
      }
      code = static_cast<int16_t>(2 * code);
    }
    node.bias.resize(static_cast<size_t>(node.weight.shape[0]));
    for (int32_t& bias : node.bias) {
      constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
      const int64_t odd = 2 * int64_t{bias} + 1;
      if (odd < -kLargest || odd > kLargest) {
        throw ExportError(fmt::format("{}: cannot be lowered: twice the bias {} exceeds int32", name, bias));
      }
      bias = static_cast<int32_t>(odd);
    }
    // The smallest power of two that makes the multiplier at least 1.
    const double ratio = static_cast<double>(output_scale) / input_scale;
    std::ranges::fill(node.weight.scale, static_cast<float>(std::exp2(std::ceil(std::log2(ratio)))));
  }

  const GraphModule& net_;
  IntegerModel model_;
  std::vector<int> tensors_;  // step -> its output's tensor
};

}  // namespace

IntegerModel lower(const GraphModule& net, const integer::Preprocessing& preprocessing) {
  const at::NoGradGuard no_grad;
  return Lowering(net).run(preprocessing);
}

}  // namespace qat::lower
