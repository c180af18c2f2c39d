#include "core/graph/replay.h"

#include <ATen/core/stack.h>

namespace qat::graph {

Call replay(c10::OperatorHandle op, std::vector<Slot> slots, std::vector<at::Tensor> tensors, size_t item) {
  return [op = std::move(op), slots = std::move(slots), tensors = std::move(tensors), item](
             const std::vector<at::Tensor>& inputs, int64_t batch) {
    const auto tensor = [&](int place) {
      if (place == -1) return at::Tensor();
      return place >= 0 ? inputs[place] : tensors[-2 - place];
    };
    torch::jit::Stack stack;
    for (const Slot& slot : slots) {
      if (slot.is_list) {
        std::vector<at::Tensor> list;
        for (const int place : slot.inputs) list.push_back(tensor(place));
        stack.emplace_back(list);
      } else if (!slot.is_constant) {
        stack.emplace_back(tensor(slot.inputs[0]));
      } else if (slot.multiples.empty()) {
        stack.push_back(slot.constant);
      } else if (slot.constant.isInt()) {
        stack.emplace_back(batch * slot.multiples[0].second);
      } else {
        std::vector<int64_t> ints = slot.constant.toIntVector();
        for (const auto& [at, factor] : slot.multiples) ints[at] = batch * factor;
        stack.emplace_back(ints);
      }
    }
    // An in-place operator must not change a value that other nodes read.
    for (size_t i = 0; i < stack.size(); ++i) {
      const auto* alias = op.schema().arguments()[i].alias_info();
      if (alias != nullptr && alias->isWrite() && stack[i].isTensor()) stack[i] = stack[i].toTensor().clone();
    }
    op.callBoxed(stack);
    return stack.at(0).isTensor() ? stack[0].toTensor() : stack[0].toTensorVector().at(item);
  };
}

}  // namespace qat::graph
