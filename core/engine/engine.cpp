#include "core/engine/engine.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/base/error.h"
#include "core/engine/network.h"

namespace qat::engine {
namespace {

using integer::CodeType;
using integer::Tensor;

void check_input(const Tensor& t, const Value& value, int64_t batch) {
  const bool floating = t.type == CodeType::kFloat32;
  const size_t found = floating ? value.values.size() : value.codes.size();
  const size_t other = floating ? value.codes.size() : value.values.size();
  QAT_CHECK(value.batch == batch && batch >= 1 && batch <= std::numeric_limits<int64_t>::max() / t.size(),
            "input {}: expected a batch of {} (at least 1), found {}", t.name, batch, value.batch);
  QAT_CHECK(found == static_cast<size_t>(batch * t.size()) && other == 0,
            "input {}: expected {} {} ({} samples of {}) and nothing else, found {} (and {} of the other kind)", t.name,
            batch * t.size(), floating ? "values" : "codes", batch, t.size(), found, other);
  for (const uint8_t byte : value.codes) {
    const int32_t code = t.type == CodeType::kInt8 ? static_cast<int8_t>(byte) : byte;
    QAT_CHECK(t.type == CodeType::kPixels || (code >= t.lo && code <= t.hi), "input {}: code {} lies outside [{}, {}]", t.name, code, t.lo, t.hi);
  }
}

}  // namespace

Engine::Engine(integer::IntegerModel model, Weights weights)
    : network_(std::make_shared<const Network>(std::move(model), weights)) {}

int64_t Engine::weight_bytes() const {
  int64_t bytes = 0;
  for (const Prepared& p : network_->prepared) {
    if (p.convolution_u8) bytes += p.convolution_u8->bytes();
    if (p.convolution_i8) bytes += p.convolution_i8->bytes();
    if (p.saturating) bytes += p.saturating->bytes();
  }
  return bytes;
}

const integer::IntegerModel& Engine::model() const { return network_->model; }

std::vector<Value> Engine::run(const std::vector<Value>& inputs, const Observer& observer) const {
  const integer::IntegerModel& m = model();
  QAT_CHECK(inputs.size() == m.inputs.size(), "expected {} inputs, found {}", m.inputs.size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) check_input(network_->tensor(m.inputs[i]), inputs[i], inputs[0].batch);
  Runner runner(*this, inputs[0].batch);
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::ranges::copy(inputs[i].values, runner.input_values(i).begin());
    std::ranges::copy(inputs[i].codes, runner.input_codes(i).begin());
    if (observer) observer(m.inputs[i], inputs[i]);
  }
  runner.run(observer);
  std::vector<Value> outputs;
  for (size_t i = 0; i < m.outputs.size(); ++i) {
    const auto codes = runner.output_codes(i);
    const auto values = runner.output_values(i);
    outputs.push_back(
        {.batch = runner.batch(), .codes = {codes.begin(), codes.end()}, .values = {values.begin(), values.end()}});
  }
  return outputs;
}

}  // namespace qat::engine
