#include "core/judges/verify.h"

#include <algorithm>
#include <set>

#include "core/base/error.h"
#include "core/integer/pixels.h"

namespace qat::judges {
namespace {

/// One judge's comparisons over all batches.
class Comparison {
 public:
  Comparison(const Judge& judge, const integer::IntegerModel& model)
      : judge_(judge), model_(model), tensors_(model.tensors.size()), standings_(model.tensors.size()) {
    for (const integer::Node& node : model.nodes) standings_[static_cast<size_t>(node.output)] = judge.standing(node);
  }

  /// Returns the judge's output.
  engine::Value run(const engine::Value& image, const Simulated& simulated) {
    engine::Value output;
    std::set<std::string> seen;
    judge_.run({image}, [&](int index, const engine::Value& value) {
      if (index == model_.inputs[0]) return;  // given, not computed
      const std::string& name = model_.tensors[static_cast<size_t>(index)].name;
      seen.insert(name);
      if (index == model_.outputs[0]) output = value;
      const auto against = [&](const engine::Value& expected) {
        compare(model_, index, expected, value, simulated.tensors, tensors_[static_cast<size_t>(index)],
                standing(index) == Standing::Kind::kNearest);
      };
      const auto found = simulated.tensors.find(name);
      if (found != simulated.tensors.end()) return against(found->second);
      if (index == model_.outputs[0]) return against(simulated.output);  // dequantized: it has no layer of its own
      skipped_.insert(fmt::format("{} ({}: not in the simulation)", name, judge_.name()));
    });
    std::set<std::string> left_out;
    for (const integer::Node& node : model_.nodes) {
      if (standing(node.output) != Standing::Kind::kLeftOut) continue;
      left_out.insert(model_.tensors[static_cast<size_t>(node.output)].name);
    }
    seen.merge(left_out);
    for (const auto& [name, value] : simulated.tensors) {
      if (!seen.contains(name)) skipped_.insert(fmt::format("{} ({}: not in the file)", name, judge_.name()));
    }
    for (const integer::Node& node : model_.nodes) {
      const std::string& name = model_.tensors[static_cast<size_t>(node.output)].name;
      if (!seen.contains(name)) skipped_.insert(fmt::format("{} ({}: not computed)", name, judge_.name()));
    }
    return output;
  }

  void finish(VerifyResult& result) const {
    JudgeResult& judge = result.judges.emplace_back();
    judge.name = judge_.name();
    judge.float_nodes = judge_.float_nodes();
    for (const integer::Node& node : model_.nodes) {
      const TensorResult& tensor = tensors_[static_cast<size_t>(node.output)];
      const Standing& standing = standings_[static_cast<size_t>(node.output)];
      if (standing.kind == Standing::Kind::kLeftOut) {
        judge.left_out.push_back(
            fmt::format("{} ({})", model_.tensors[static_cast<size_t>(node.output)].name, standing.reason));
      }
      if (tensor.compared == 0) continue;
      if (standing.kind == Standing::Kind::kAdvisory) {
        judge.advisory.push_back(tensor);
        continue;
      }
      judge.compared += tensor.compared;
      judge.mismatches += tensor.mismatches;
      judge.tensors.push_back(tensor);
    }
    result.compared += judge.compared;
    result.mismatches += judge.mismatches;
    result.skipped.insert(result.skipped.end(), skipped_.begin(), skipped_.end());
  }

 private:
  Standing::Kind standing(int index) const { return standings_[static_cast<size_t>(index)].kind; }

  const Judge& judge_;
  const integer::IntegerModel& model_;
  std::vector<TensorResult> tensors_;  // by index
  std::vector<Standing> standings_;    // by index
  std::set<std::string> skipped_;
};

}  // namespace

bool VerifyResult::passed() const {
  return mismatches == 0 && skipped.empty() && !judges.empty() &&
         std::ranges::all_of(judges,
                             [](const JudgeResult& judge) { return judge.compared > 0 && judge.float_nodes.empty(); });
}

engine::Value input_value(const integer::IntegerModel& model, int64_t batch, const float* images) {
  const integer::Tensor& input = model.tensors[static_cast<size_t>(model.inputs[0])];
  engine::Value value{.batch = batch, .codes = {}, .values = {images, images + batch * input.size()}};
  if (input.type != integer::CodeType::kPixels) return value;
  value.codes = integer::pixels_of(value.values, model.preprocessing, input.shape[0]);
  value.values.clear();
  return value;
}

VerifyResult verify(const Simulation& simulate, const integer::IntegerModel& model,
                    const std::vector<std::unique_ptr<Judge>>& judges, const BatchSource& batches) {
  QAT_CHECK(!judges.empty(), "verify needs a judge");
  QAT_CHECK(model.inputs.size() == 1 && model.outputs.size() == 1, "verify needs a model of one input and one output");
  const integer::Tensor& input = model.tensors[static_cast<size_t>(model.inputs[0])];
  QAT_CHECK(input.shape.size() == 3, "the model's input '{}' is not an image", input.name);
  QAT_CHECK(model.tensors[static_cast<size_t>(model.outputs[0])].type == integer::CodeType::kFloat32,
            "the model's output is not float32");

  VerifyResult result;
  std::vector<Comparison> comparisons;
  for (const auto& judge : judges) comparisons.emplace_back(*judge, model);
  VerifyBatch batch;
  while (batches(batch)) {
    QAT_CHECK(batch.size > 0 && batch.images != nullptr && batch.labels != nullptr, "verify was given an empty batch");
    const Simulated simulated = simulate(batch);
    const engine::Value image = input_value(model, batch.size, batch.images);
    for (size_t i = 0; i < comparisons.size(); ++i) {
      const engine::Value output = comparisons[i].run(image, simulated);
      if (i == 0) result.integer.add(output.values, {batch.labels, static_cast<size_t>(batch.size)});
    }
    result.simulated.add(simulated.output.values, {batch.labels, static_cast<size_t>(batch.size)});
    result.samples += batch.size;
  }
  for (const Comparison& comparison : comparisons) comparison.finish(result);
  return result;
}

}  // namespace qat::judges
