// What cannot be exported to ONNX, and why: all that ONNX Runtime computes in another way than the engine, or in float.
#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/export/onnx_proto.h"
#include "core/ops/table.h"

namespace qat::exporter {

using integer::CodeType;
using integer::IntegerModel;
using integer::Node;
using integer::Op;
using integer::Tensor;

bool has_operator(const std::string& function) { return function == "leaky_relu"; }

std::vector<int16_t> operator_table(double alpha, const Tensor& x, const Tensor& y) {
  const std::function<float(float)> f = [slope = static_cast<float>(alpha)](float v) {
    return ops::leaky_relu(v, slope);
  };
  const ops::CodeRange range{.lo = y.lo, .hi = y.hi, .zero_point = y.zero_point};
  return y.type == CodeType::kInt8 ? ops::function_table<int8_t>(x.scale, x.zero_point, y.scale, range, f)
                                   : ops::function_table<uint8_t>(x.scale, x.zero_point, y.scale, range, f);
}

namespace {

class Refusals {
 public:
  explicit Refusals(const IntegerModel& model) : model_(model) {}

  std::vector<std::string> run() {
    if (model_.target != "onnxruntime") {
      found_.push_back(fmt::format("the target is {}, whose arithmetic is another than ONNX Runtime's", model_.target));
    }
    for (const int i : model_.inputs) {
      if (integer::holds_codes(tensor(i).type)) refuse(tensor(i).name, "an input that holds codes, not float32");
      if (is_output(i)) refuse(tensor(i).name, "an input that is an output too");
    }
    if (std::set(model_.outputs.begin(), model_.outputs.end()).size() != model_.outputs.size()) {
      found_.push_back("an output is named twice");
    }
    for (const Node& node : model_.nodes) check(node);
    return std::move(found_);
  }

 private:
  void check(const Node& node) {
    const Tensor &x = tensor(node.inputs[0]), &y = tensor(node.output);
    if (node.op == Op::kQuantize && !is_input(node.inputs[0])) {
      refuse(node.name,
             "float values that the network itself makes are quantized again: ONNX Runtime merges the steps");
    }
    if (y.type == CodeType::kFloat32 && !is_output(node.output)) {
      refuse(node.name, "makes float32 values that are no output");
    }
    if (node.op == Op::kConcat && node.inputs.size() == 1) {
      refuse(node.name, "a concatenation of one input: ONNX Runtime merges its quantizers");
    }
    if (node.op == Op::kConv || node.op == Op::kLinear) check_weight(node, x);
    if (node.op == Op::kTable) check_table(node, x, y);
    if (node.ceil_mode) check_ceil_mode(node, x, y);
    if (node.op == Op::kGlobalAveragePool || node.op == Op::kAveragePool) check_global_pool(node, x, y);
  }

  /// A pool of the whole map, under either name.
  void check_global_pool(const Node& node, const Tensor& x, const Tensor& y) {
    const bool is_whole = node.kernel == std::array{x.shape[1], x.shape[2]} && node.pad == Node().pad;
    if (node.op == Op::kAveragePool && !is_whole) return;
    const float multiplier = x.scale / (y.scale * static_cast<float>(x.shape[1] * x.shape[2]));
    if (multiplier < 0x1p-32f || multiplier >= 256.0f) {
      refuse(node.name,
             fmt::format("its multiplier {} lies outside [2^-32, 256): ONNX Runtime refuses it", multiplier));
    }
  }

  /// ONNX's shape inference (to opset 21) keeps a last window that would start in the padding, ONNX Runtime's kernels
  /// drop it, and ONNX Runtime then refuses what else meets that shape. Without the drop, windows cover all of the
  /// input.
  void check_ceil_mode(const Node& node, const Tensor& x, const Tensor& y) {
    for (size_t axis = 0; axis < 2; ++axis) {
      const int64_t window = node.dilation[axis] * (node.kernel[axis] - 1) + 1;
      const int64_t covered = (y.shape[1 + axis] - 1) * node.stride[axis] + window;
      if (covered >= x.shape[1 + axis] + node.pad[axis] + node.pad[2 + axis]) continue;
      return refuse(node.name, "ceil mode whose last window would start in the padding: use no ceil mode there");
    }
  }

  void check_weight(const Node& node, const Tensor& x) {
    const integer::Weight& w = node.weight;
    if (x.type == CodeType::kInt8 && w.type == CodeType::kUint8) {
      refuse(node.name, "uint8 weights on int8 activations: ONNX Runtime computes them in float");
    }
    if (std::ranges::any_of(w.zero_point, [&](int32_t z) { return z != w.zero_point[0]; })) {
      refuse(node.name, "weight zero points that differ from channel to channel: ONNX Runtime has no kernel");
    }
    for (const float s : w.scale) {
      if (node.bias.empty() || std::isnormal(x.scale * s)) continue;
      return refuse(node.name, fmt::format("the bias's scale {} * {} is no normal float32 number", x.scale, s));
    }
  }

  void check_table(const Node& node, const Tensor& x, const Tensor& y) {
    if (!has_operator(node.function)) {
      if (node.alpha != 0) refuse(node.name, "only leaky_relu has an alpha");
    } else if (node.table != operator_table(node.alpha, x, y)) {
      refuse(node.name, fmt::format("its table is not that of {}", node.function));
    }
  }

  const Tensor& tensor(int index) const { return model_.tensors[static_cast<size_t>(index)]; }
  bool is_input(int index) const { return std::ranges::find(model_.inputs, index) != model_.inputs.end(); }
  bool is_output(int index) const { return std::ranges::find(model_.outputs, index) != model_.outputs.end(); }
  void refuse(const std::string& name, const std::string& reason) { found_.push_back(name + ": " + reason); }

  const IntegerModel& model_;
  std::vector<std::string> found_;
};

}  // namespace

void require_exportable(const IntegerModel& model, const char* format) {
  const std::vector<std::string> refusals = Refusals(model).run();
  QAT_CHECK_AS(ExportError, refusals.empty(), "{} cannot hold this model: {}", format, join(refusals, "; "));
}

}  // namespace qat::exporter
