#include "core/graph/record.h"

#include <ATen/ops/alias.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <unordered_map>

#include "core/base/error.h"

namespace qat::graph {
namespace {

// A mode key above autograd with no kernels of its own: composite operators (conv2d, batch_norm) are seen whole.
constexpr c10::DispatchKey kKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

class Recorder {
 public:
  explicit Recorder(Recording& out) : out_(out) {}

  int define(const at::Tensor& tensor, std::string name, int producer) {
    const int index = static_cast<int>(out_.values.size());
    out_.values.push_back({tensor, std::move(name), producer});
    current_[tensor.unsafeGetTensorImpl()] = {index, false};
    return index;
  }

  int use(const at::Tensor& tensor, const std::string& op) {
    if (!tensor.defined()) return kUndefined;
    const auto found = current_.find(tensor.unsafeGetTensorImpl());
    if (found == current_.end()) {
      throw GraphError(
          fmt::format("{}{}: reads a tensor of sizes {} that is neither a parameter, a buffer nor computed from the "
                      "input: register "
                      "it as a buffer",
                      op, near(), c10::str(tensor.sizes())));
    }
    if (found->second.stale) {
      throw GraphError(
          fmt::format("{}{}: reads a view whose base was changed in place: use the out-of-place operator", op, near()));
    }
    return found->second.value;
  }

  void call(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    const c10::FunctionSchema& schema = op.schema();
    const std::string name = toString(schema.operator_name());
    const size_t count = schema.arguments().size();
    const std::vector<c10::IValue> inputs(stack->end() - static_cast<int64_t>(count), stack->end());
    Record record{op, {}, {}};
    for (const c10::IValue& input : inputs) record.args.push_back(argument(input, name));
    op.callBoxed(*stack);

    for (size_t i = 0; i < count; ++i) {
      if (!inputs[i].isTensor()) continue;
      const auto* alias = schema.arguments()[i].alias_info();
      if (alias != nullptr && alias->isWrite()) {
        mark_stale(inputs[i].toTensor());
      }
      if (schema.is_mutable()) continue;
      // An operator that had nothing to do (dropout in evaluation) returns its argument. Whoever reads the argument
      // later must not be taken for a reader of the result.
      for (auto it = stack->end() - static_cast<int64_t>(schema.returns().size()); it != stack->end(); ++it) {
        if (it->isTensor() && it->toTensor().defined() && it->toTensor().is_same(inputs[i].toTensor())) {
          *it = at::alias(it->toTensor());
        }
      }
    }
    const int index = static_cast<int>(out_.records.size());
    for (auto it = stack->end() - static_cast<int64_t>(schema.returns().size()); it != stack->end(); ++it) {
      if (it->isTensor() && it->toTensor().defined()) {
        record.results.push_back(define(it->toTensor(), "", index));
      } else if (it->isTensorList()) {
        for (const at::Tensor& t : it->toTensorVector()) record.results.push_back(define(t, "", index));
      }
    }
    out_.records.push_back(std::move(record));
  }

 private:
  struct Current {
    int value = -1;
    bool stale = false;
  };

  RecordedArg argument(const c10::IValue& value, const std::string& op) {
    if (value.isTensor()) return use(value.toTensor(), op);
    if (value.isTensorList() || value.isOptionalTensorList()) {
      std::vector<int> list;
      for (const c10::IValue& item : value.toListRef())
        list.push_back(item.isTensor() ? use(item.toTensor(), op) : kUndefined);
      return list;
    }
    return value;
  }

  /// Everything else that shares this storage has other contents now.
  void mark_stale(const at::Tensor& written) {
    for (auto& [impl, current] : current_) {
      if (impl != written.unsafeGetTensorImpl() && impl->has_storage() &&
          impl->storage().is_alias_of(written.storage())) {
        current.stale = true;
      }
    }
  }

  /// " (after conv1)": the last named layer, to help find the place.
  std::string near() const {
    for (auto record = out_.records.rbegin(); record != out_.records.rend(); ++record) {
      for (const RecordedArg& arg : record->args) {
        const int* value = std::get_if<int>(&arg);
        if (value == nullptr || *value < 0 || out_.values[*value].name.empty()) continue;
        const std::string& name = out_.values[*value].name;
        return " (after " + name.substr(0, name.rfind('.')) + ")";
      }
    }
    return "";
  }

  Recording& out_;
  std::unordered_map<const at::TensorImpl*, Current> current_;
};

thread_local Recorder* active = nullptr;

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard exclude(kKey);
  if (active == nullptr) {
    op.callBoxed(*stack);
  } else {
    active->call(op, stack);
  }
}

class ActiveRecorder {
 public:
  explicit ActiveRecorder(Recorder& recorder) : include_(kKey) { active = &recorder; }
  ~ActiveRecorder() { active = nullptr; }

 private:
  c10::impl::IncludeDispatchKeyGuard include_;
};

}  // namespace

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

Recording record(const Forward& forward, const at::Tensor& input, const NamedTensors& tensors) {
  Recording recording;
  Recorder recorder(recording);
  for (const auto& [name, tensor] : tensors) {
    if (tensor.defined()) recorder.define(tensor, name, -1);
  }
  recording.input = recorder.define(input, "", -1);
  NamedTensors outputs;
  {
    const ActiveRecorder scope(recorder);
    outputs = forward(input);
  }
  for (const auto& [name, tensor] : outputs) {
    recording.outputs.emplace_back(name, recorder.use(tensor, "the network's output"));
    if (recording.outputs.back().second < 0) throw GraphError("the network's forward returned no tensor");
  }
  QAT_CHECK_AS(GraphError, !outputs.empty(), "the network's forward returned nothing");
  return recording;
}

std::string name_of(const Record& record) { return toString(record.op.schema().operator_name()); }

}  // namespace qat::graph
