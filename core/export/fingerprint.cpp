#include "core/export/fingerprint.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/base/sha256.h"
#include "core/engine/layout.h"
#include "core/export/onnx.h"

namespace qat::exporter {

using integer::Tensor;

std::vector<engine::Value> fixed_inputs(const integer::IntegerModel& model) {
  std::vector<engine::Value> inputs;
  for (size_t i = 0; i < model.inputs.size(); ++i) {
    const Tensor& x = model.tensors[static_cast<size_t>(model.inputs[i])];
    CounterRng random(i);
    engine::Value value{.batch = 1, .codes = {}, .values = {}};
    if (x.type == integer::CodeType::kPixels) {
      for (int64_t j = 0; j < x.size(); ++j) value.codes.push_back(static_cast<uint8_t>(256 * random.uniform()));
      inputs.push_back(engine::to_nhwc(value, x));
      continue;
    }
    const auto quantizer = std::ranges::find_if(model.nodes, [&](const integer::Node& node) {
      return node.op == integer::Op::kQuantize && node.inputs[0] == model.inputs[i];
    });
    QAT_CHECK(quantizer != model.nodes.end(), "input {} is not quantized", x.name);
    const Tensor& q = model.tensors[static_cast<size_t>(quantizer->output)];
    for (int64_t j = 0; j < x.size(); ++j) {
      const double code = q.lo - 1 - q.zero_point + random.uniform() * (q.hi - q.lo + 2);
      value.values.push_back(static_cast<float>(static_cast<double>(q.scale) * code));
    }
    inputs.push_back(engine::to_nhwc(value, x));
  }
  return inputs;
}

std::vector<std::pair<std::string, std::string>> fingerprint(const integer::IntegerModel& model) {
  std::vector<std::string> digests(model.tensors.size());
  engine::Engine(model).run(fixed_inputs(model), [&](int index, const engine::Value& nhwc) {
    const engine::Value value = engine::to_nchw(nhwc, model.tensors[static_cast<size_t>(index)]);
    const void* data = value.codes.empty() ? static_cast<const void*>(value.values.data()) : value.codes.data();
    digests[static_cast<size_t>(index)] =
        sha256({static_cast<const char*>(data), value.codes.size() + value.values.size() * sizeof(float)});
  });
  std::vector<std::pair<std::string, std::string>> result;
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const bool is_input = std::ranges::find(model.inputs, static_cast<int>(i)) != model.inputs.end();
    if (!is_input) result.emplace_back(onnx_name(model.tensors[i]), digests[i]);
  }
  return result;
}

}  // namespace qat::exporter
