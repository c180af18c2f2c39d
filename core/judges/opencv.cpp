#include "core/judges/opencv.h"

#include <algorithm>
#include <opencv2/dnn.hpp>
#include <utility>

#include "core/base/error.h"
#include "core/engine/layout.h"
#include "core/export/onnx_opencv.h"

namespace qat::judges {
namespace {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;
using Kind = Standing::Kind;

int32_t code(const Tensor& t, uint8_t bits) { return t.type == CodeType::kInt8 ? static_cast<int8_t>(bits) : bits; }

/// The values in NCHW, codes dequantized.
std::vector<float> real_values(const engine::Value& value, const Tensor& t) {
  engine::Value nchw = engine::to_nchw(value, t);
  for (const uint8_t bits : nchw.codes) {
    nchw.values.push_back(t.scale * static_cast<float>(code(t, bits) - t.zero_point));
  }
  return std::move(nchw.values);
}

/// OpenCV computes uint8 codes as int8, 128 lower.
engine::Value value_of(const cv::Mat& made, const Tensor& t, int64_t batch) {
  const bool is_float = t.type == CodeType::kFloat32;
  QAT_CHECK(made.depth() == (is_float ? CV_32F : CV_8S) && made.isContinuous() &&
                made.total() == static_cast<size_t>(batch * t.size()),
            "{}: OpenCV gives {} elements of type {}, the file says {}", t.name, made.total(), made.depth(),
            batch * t.size());
  engine::Value value{.batch = batch};
  if (is_float) {
    value.values.assign(made.ptr<float>(), made.ptr<float>() + made.total());
    return engine::to_nhwc(value, t);
  }
  const int32_t shift = t.type == CodeType::kUint8 ? 128 : 0;
  for (size_t i = 0; i < made.total(); ++i) {
    value.codes.push_back(static_cast<uint8_t>(std::clamp(made.ptr<int8_t>()[i] + shift, t.lo, t.hi)));
  }
  return engine::to_nhwc(value, t);
}

}  // namespace

struct OpenCvJudge::Network {
  cv::dnn::Net net;
  std::vector<exporter::OpenCvCopy::Input> inputs;
  int64_t batch = 0;
};

OpenCvJudge::OpenCvJudge(std::string bytes, const integer::IntegerModel& model)
    : bytes_(std::move(bytes)), engine_(model) {}

OpenCvJudge::~OpenCvJudge() = default;

Standing OpenCvJudge::standing(const Node& node) const {
  const std::vector<Tensor>& tensors = engine_.model().tensors;
  const auto tensor = [&](int i) -> const Tensor& { return tensors[static_cast<size_t>(i)]; };
  if (engine_.model().overflow != integer::Overflow::kExact && (node.op == Op::kConv || node.op == Op::kLinear)) {
    return {Kind::kLeftOut, "its sums do not saturate"};
  }
  if (node.ceil_mode && (node.pad[0] != node.pad[2] || node.pad[1] != node.pad[3])) {
    return {Kind::kLeftOut, "it makes less of a ceil mode with uneven padding"};
  }
  switch (node.op) {
    case Op::kMaxPool:
      if (node.dilation != Node().dilation) return {Kind::kLeftOut, "it ignores a pool's dilation"};
      return {};
    case Op::kFlatten:
    case Op::kChannelSlice:
      return {};
    case Op::kConv:
    case Op::kLinear:
      if (node.is_spread()) return {Kind::kLeftOut, "it does not read moves of codes in six dimensions"};
      if (tensor(node.output).type == CodeType::kFloat32) return {Kind::kLeftOut, "it has no QGemm of float32 outputs"};
      if (node.weight.type == CodeType::kUint8 ||
          std::ranges::any_of(node.weight.zero_point, [](int z) { return z != 0; })) {
        return {Kind::kLeftOut, "it ignores the zero points of weights"};
      }
      return {Kind::kNearest};
    case Op::kAdd:
    case Op::kMul:
      if (tensor(node.inputs[0]).shape != tensor(node.inputs[1]).shape) return {Kind::kLeftOut, "it has no broadcast"};
      return {Kind::kNearest};
    case Op::kConcat:
      return {Kind::kNearest};
    case Op::kTable:
      if (node.function == "leaky_relu") return {Kind::kNearest};
      return {Kind::kLeftOut, "it does not read look-ups"};
    case Op::kRelu:
      return {Kind::kLeftOut, "it does not read Clip of codes"};
    case Op::kChannelShuffle:
      return {Kind::kLeftOut, "it does not read shuffles of codes"};
    case Op::kAveragePool:
    case Op::kGlobalAveragePool:
      return {Kind::kAdvisory, "it rounds otherwise"};
    case Op::kQuantize:
      if (tensor(node.inputs[0]).type == CodeType::kPixels) return {Kind::kLeftOut, "it has no input of bytes"};
      [[fallthrough]];
    case Op::kDequantize:
      return {Kind::kAdvisory, "it rounds otherwise"};
  }
  return {Kind::kLeftOut, "unknown operator"};
}

void OpenCvJudge::run(const std::vector<engine::Value>& inputs, const engine::Engine::Observer& observe) const {
  const integer::IntegerModel& model = engine_.model();
  const auto tensor = [&](int i) -> const Tensor& { return model.tensors[static_cast<size_t>(i)]; };
  const auto judged = [&](const Node& node) { return standing(node).kind != Kind::kLeftOut; };
  std::vector<engine::Value> values(model.tensors.size());
  engine_.run(inputs, [&](int index, const engine::Value& value) { values[static_cast<size_t>(index)] = value; });
  const int64_t batch = inputs[0].batch;
  try {
    if (!network_ || network_->batch != batch) {
      exporter::OpenCvCopy copy = exporter::onnx_for_opencv(bytes_, model, batch, judged);
      network_ = std::make_unique<Network>();
      network_->net = cv::dnn::readNetFromONNX(copy.bytes.data(), copy.bytes.size());
      network_->net.setPreferableBackend(cv::dnn::DNN_BACKEND_OPENCV);
      network_->net.enableFusion(false);
      network_->inputs = std::move(copy.inputs);
      network_->batch = batch;
    }
    for (const auto& input : network_->inputs) {
      std::vector<float> given = real_values(values[static_cast<size_t>(input.tensor)], tensor(input.tensor));
      const std::vector<int> shape(input.shape.begin(), input.shape.end());
      network_->net.setInput(cv::Mat(shape, CV_32F, given.data()).clone(), input.name);
    }
    std::vector<cv::String> names;
    std::vector<cv::Mat> made;
    for (const Node& node : model.nodes) {
      if (judged(node)) names.push_back("onnx_node!" + node.name);
    }
    network_->net.forward(made, names);
    size_t next = 0;
    for (const Node& node : model.nodes) {
      if (judged(node)) observe(node.output, value_of(made[next++], tensor(node.output), batch));
    }
  } catch (const cv::Exception& e) {
    throw Error(fmt::format("OpenCV: {}", e.what()));
  }
}

}  // namespace qat::judges
