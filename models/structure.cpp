#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <map>

#include "models/model.h"

namespace qat::models {
namespace {

// A mode key above autograd with no kernels of its own.
constexpr c10::DispatchKey kKey = c10::DispatchKey::TESTING_ONLY_GenericWrapper;

/// Operators that would fill a tensor in place leave it as it is: fresh memory that nothing touches costs nothing.
void skip_writes(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard exclude(kKey);
  const c10::FunctionSchema& schema = op.schema();
  const size_t arguments = schema.arguments().size();
  const bool writes_self = arguments > 0 && schema.returns().size() == 1 &&
                           schema.arguments()[0].alias_info() != nullptr &&
                           schema.arguments()[0].alias_info()->isWrite();
  if (!writes_self) {
    op.callBoxed(*stack);
  } else {
    torch::jit::drop(*stack, arguments - 1);
  }
}

std::shared_ptr<torch::nn::Module> uninitialised(const std::string& name, const config::Node& options) {
  const ModelFactory& factory = registry().get(name);
  const c10::impl::IncludeDispatchKeyGuard include(kKey);
  return factory(options).module;
}

using Shapes = std::map<std::string, std::vector<int64_t>>;

Shapes shapes(const std::string& name, const config::Node& options) {
  Shapes result;
  const auto module = uninitialised(name, options);
  for (const auto& item : module->named_parameters()) result[item.key()] = item.value().sizes().vec();
  for (const auto& item : module->named_buffers()) {
    if (item.value().defined()) result[item.key()] = item.value().sizes().vec();
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericWrapper, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&skip_writes>());
}

int64_t parameter_count(const std::string& name) {
  int64_t count = 0;
  for (const at::Tensor& p : uninitialised(name, config::Node())->parameters()) count += p.numel();
  return count;
}

std::set<std::string> classifier_tensors(const std::string& name, const config::Node& options) {
  const Shapes two = shapes(name, options.with("num_classes", config::Node::scalar("2")));
  const Shapes three = shapes(name, options.with("num_classes", config::Node::scalar("3")));
  std::set<std::string> names;
  for (const auto& [tensor, shape] : two) {
    if (three.at(tensor) != shape) names.insert(tensor);
  }
  return names;
}

}  // namespace qat::models
