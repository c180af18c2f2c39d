#include "core/engine/plan.h"

#include <algorithm>
#include <numeric>

namespace qat::engine {
namespace {

using integer::Node;
using integer::Op;
using integer::Tensor;

/// A tensor, or several that share their place, from the first node that writes to the last that reads.
struct Block {
  size_t bytes = 0;
  size_t first = 0, last = 0;
  size_t offset = 0;
};

/// Whether a node changes no place of an element: it can write over its input.
bool works_in_place(const Node& node, const Tensor& x) {
  if (node.op == Op::kRelu) return true;
  return node.op == Op::kFlatten && (x.shape.size() == 1 || x.shape[0] == 1 || x.size() == x.shape[0]);
}

}  // namespace

Plan plan_memory(const integer::IntegerModel& model, int64_t batch) {
  const size_t tensors = model.tensors.size(), nodes = model.nodes.size();
  std::vector<size_t> last_use(tensors, 0);
  std::vector<char> is_fixed(tensors, 0);  // inputs and outputs
  for (size_t n = 0; n < nodes; ++n) {
    for (const int i : model.nodes[n].inputs) last_use[static_cast<size_t>(i)] = n;
  }
  for (const int i : model.inputs) is_fixed[static_cast<size_t>(i)] = 1;
  for (const int i : model.outputs) is_fixed[static_cast<size_t>(i)] = 1, last_use[static_cast<size_t>(i)] = nodes;

  Plan plan{.offset = std::vector<size_t>(tensors, 0), .is_alias = std::vector<char>(nodes, 0)};
  std::vector<Block> blocks;
  std::vector<size_t> block_of(tensors, 0);
  const auto add = [&](int index, size_t first) {
    const auto t = static_cast<size_t>(index);
    const Tensor& tensor = model.tensors[t];
    const size_t element = tensor.type == integer::CodeType::kFloat32 ? sizeof(float) : 1;
    const size_t bytes = static_cast<size_t>(batch * tensor.size()) * element + kAlignment;
    block_of[t] = blocks.size();
    blocks.push_back({.bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment,
                      .first = first,
                      .last = std::max(first, last_use[t])});
  };
  for (const int i : model.inputs) add(i, 0);
  for (size_t n = 0; n < nodes; ++n) {
    const Node& node = model.nodes[n];
    const auto x = static_cast<size_t>(node.inputs[0]), y = static_cast<size_t>(node.output);
    if (works_in_place(node, model.tensors[x]) && last_use[x] == n && is_fixed[x] == 0) {
      plan.is_alias[n] = 1;
      block_of[y] = block_of[x];
      blocks[block_of[y]].last = std::max(blocks[block_of[y]].last, last_use[y]);
    } else {
      add(node.output, n);
    }
  }

  // Large blocks first, each at the lowest place that no block alive at the same time has.
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });
  std::vector<size_t> placed;  // by offset
  for (const size_t b : order) {
    Block& block = blocks[b];
    size_t at = 0;
    for (const size_t other : placed) {
      const Block& o = blocks[other];
      if (o.last < block.first || block.last < o.first) continue;
      if (o.offset >= at + block.bytes) break;
      at = std::max(at, o.offset + o.bytes);
    }
    block.offset = at;
    plan.bytes = std::max(plan.bytes, at + block.bytes);
    placed.insert(std::ranges::upper_bound(placed, at, {}, [&](size_t i) { return blocks[i].offset; }), b);
  }
  for (size_t t = 0; t < tensors; ++t) plan.offset[t] = blocks[block_of[t]].offset;
  return plan;
}

}  // namespace qat::engine
