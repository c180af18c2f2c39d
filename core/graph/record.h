// The raw recording of one forward: every operator the network calls, as the dispatcher saw it.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <functional>
#include <string>
#include <variant>
#include <vector>

namespace qat::graph {

/// A tensor seen while recording. Kept alive until the end, so that no address is used twice.
struct RecordedValue {
  at::Tensor tensor;
  std::string name;   // of a parameter or buffer; empty for the input and for results
  int producer = -1;  // record that made it; -1: the input, a parameter or a buffer
};

/// An argument: a tensor (index into values), a list of tensors, or a constant.
using RecordedArg = std::variant<int, std::vector<int>, c10::IValue>;
constexpr int kUndefined = -1;  // an absent optional tensor

struct Record {
  c10::OperatorHandle op;
  std::vector<RecordedArg> args;
  std::vector<int> results;
};

struct Recording {
  std::vector<RecordedValue> values;
  std::vector<Record> records;
  int input = -1;
  std::vector<std::pair<std::string, int>> outputs;
};

/// Tensors by name.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// A network's forward: its output first, then those of heads that only training reads.
using Forward = std::function<NamedTensors(const at::Tensor&)>;

/// Records forward(input). Throws GraphError for a captured tensor, a stale view or an output that is no result.
Recording record(const Forward& forward, const at::Tensor& input, const NamedTensors& tensors);

/// "aten::relu" (with overload "aten::add.Tensor").
std::string name_of(const Record& record);

}  // namespace qat::graph
