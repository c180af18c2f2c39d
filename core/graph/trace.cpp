#include "core/graph/trace.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/base/error.h"
#include "core/graph/reader.h"
#include "core/graph/rehearsal.h"
#include "core/graph/replay.h"

namespace qat::graph {
namespace {

/// Turns a recording into typed nodes; `other` is the recording at the second batch size.
class Translator : private Reader {
 public:
  Translator(const Recording& recording, const Recording& other) : Reader(recording, other) {
    for (const RecordedValue& value : r_.values) {
      if (value.name.empty()) continue;
      for (size_t at = 0; at != std::string::npos; at = value.name.find('.', at + 1)) {
        modules_.insert(value.name.substr(0, value.name.find('.', at + 1)));
      }
    }
  }

  Graph run() {
    check_same_operators();
    Node input;
    input.op = Op::kInput;
    input.name = unique("input");
    graph_.input = add(std::move(input), r_.input);
    for (size_t i = 0; i < r_.records.size(); ++i) translate(i);
    graph_.output = node_of(r_.outputs[0].second, "the network's output");
    for (size_t i = 1; i < r_.outputs.size(); ++i) {
      const auto& [name, value] = r_.outputs[i];
      graph_.heads.push_back({name, node_of(value, "the network's output")});
    }
    return std::move(graph_);
  }

 private:
  void translate(size_t index) {
    const Record& record = r_.records[index];
    const std::string full = name_of(record);
    std::string op = full.substr(0, full.find('.'));
    if (op.size() > 1 && op.back() == '_' && op != "aten::__and_") op.pop_back();  // in place: single assignment here
    if (is_state(record)) return;
    current_ = index;
    if (record.results.size() != 1) {
      views(record, full);
      return;
    }
    const Args& a = record.args;
    const int result = record.results[0];
    Node node;
    // A number that follows the batch has no place in a typed node.
    static const std::set<std::string> may_follow{"aten::view", "aten::reshape", "aten::flatten", "aten::empty"};
    if (!same_numbers() && may_follow.count(op) == 0) {
      generic(record, result);
    } else if (is_convolution(op) && is_parameter(a[1])) {
      node.op = Op::kConv;
      node.tensors.weight = parameter(a[1], "weight");
      node.tensors.bias = optional_parameter(a[2]);
      node.geometry = geometry_of(op, a, node.tensors.weight.dim() - 2);
      if (node.geometry.padding.empty() || sizes(a[0]).size() != sizes(a[1]).size()) {
        generic(record, result);  // "same" padding that is not symmetric; no batch
      } else {
        finish(node, {a[0]}, result, module_of(a[1]));
      }
    } else if (op == "aten::linear" && is_parameter(a[1]) && (is_undefined(a[2]) || is_parameter(a[2]))) {
      linear(a[0], a[1], a[2], result);
    } else if (op == "aten::t" && is_parameter(a[0])) {
      transposed_[result] = std::get<int>(a[0]);
    } else if (op == "aten::addmm" && transposed_.count(std::get<int>(a[2])) != 0 && is_one(a[3]) && is_one(a[4])) {
      linear(a[1], transposed_.at(std::get<int>(a[2])), a[0], result);
    } else if ((op == "aten::matmul" || op == "aten::mm") && transposed_.count(std::get<int>(a[1])) != 0) {
      linear(a[0], transposed_.at(std::get<int>(a[1])), kUndefined, result);
    } else if (op == "aten::batch_norm") {
      node.op = Op::kBatchNorm;
      // Without affine parameters or running statistics it stays a layer of its own.
      node.tensors.batch_norm = autograd::BatchNorm{.gamma = optional_parameter(a[1]),
                                                    .beta = optional_parameter(a[2]),
                                                    .running_mean = optional_parameter(a[3]),
                                                    .running_var = optional_parameter(a[4]),
                                                    .eps = constant(a[7]).toDouble(),
                                                    .momentum = constant(a[6]).toDouble()};
      if (node.tensors.batch_norm->momentum == 0.0) {
        throw GraphError(fmt::format("{}{}: batch norm with momentum 0 or none (a cumulative average) is not supported",
                                     full, near(index)));
      }
      const auto owner =
          std::find_if(a.begin() + 1, a.begin() + 5, [&](const RecordedArg& arg) { return is_parameter(arg); });
      finish(node, {a[0]}, result, owner == a.begin() + 5 ? "batch_norm" : module_of(*owner));
    } else if (const nn::Activation activation = activation_of(op, a)) {
      node.op = Op::kActivation;
      node.activation = activation;
      finish(node, {a[0]}, result, short_name(full));
    } else if (op == "aten::add" && both_computed(a) && equal_sizes(a) && is_one(a[2])) {
      node.op = Op::kAdd;
      finish(node, {a[0], a[1]}, result, "add");
    } else if (op == "aten::mul" && both_computed(a) && (equal_sizes(a) || scales_channels(a))) {
      node.op = Op::kMul;
      finish(node, {a[0], a[1]}, result, "mul");
    } else if ((op == "aten::cat" || op == "aten::concat") && is_concat(a)) {
      node.op = Op::kConcat;
      std::vector<RecordedArg> inputs;
      for (const int value : std::get<std::vector<int>>(a[0])) inputs.emplace_back(value);
      finish(node, inputs, result, "concat");
    } else if (op == "aten::max_pool2d") {
      node.op = Op::kMaxPool2d;
      node.pool = {.kernel = pair(a[1]),
                   .stride = pair(a[2], a[1]),
                   .padding = pair(a[3]),
                   .dilation = pair(a[4]),
                   .ceil_mode = constant(a[5]).toBool()};
      finish(node, {a[0]}, result, "max_pool2d");
    } else if (op == "aten::avg_pool2d" && constant(a[6]).isNone()) {
      node.op = Op::kAvgPool2d;
      node.pool = {.kernel = pair(a[1]),
                   .stride = pair(a[2], a[1]),
                   .padding = pair(a[3]),
                   .ceil_mode = constant(a[4]).toBool(),
                   .count_include_pad = constant(a[5]).toBool()};
      finish(node, {a[0]}, result, "avg_pool2d");
    } else if (op == "aten::adaptive_avg_pool2d" && adaptive_pool(a, result)) {
    } else if (op == "aten::mean" && is_spatial_mean(a)) {
      node.op = Op::kGlobalAvgPool2d;
      node.sizes = {sizes(a[0])[1], 1, 1};
      const int pooled = finish(node, {a[0]}, result, "avgpool");
      if (!constant(a[2]).toBool()) add_flatten(pooled, result);
    } else if ((op == "aten::flatten" || op == "aten::view" || op == "aten::reshape") && flattens(a[0], result)) {
      add_flatten(node_of(std::get<int>(a[0]), full), result);
    } else if (op == "aten::dropout") {
      node.op = Op::kDropout;
      node.dropout = constant(a[1]).toDouble();
      finish(node, {a[0]}, result, "dropout");
    } else if (op == "aten::contiguous" || op == "aten::clone" || op == "aten::alias") {
      nodes_[result] = node_of(std::get<int>(a[0]), full);
    } else if (stochastic_depth(op, a, result)) {
    } else if ((op == "aten::slice" || full == "aten::narrow") && is_channel_slice(a)) {
      add_slice(a[0], constant(a[2]).isNone() ? 0 : constant(a[2]).toInt(), result);
    } else {
      generic(record, result);
    }
  }

  static bool is_convolution(const std::string& op) {
    static const std::set<std::string> names{"aten::conv1d",           "aten::conv2d",
                                             "aten::conv3d",           "aten::conv_transpose1d",
                                             "aten::conv_transpose2d", "aten::conv_transpose3d"};
    return names.count(op) != 0;
  }

  /// Pools to one pixel, or by windows that divide the map; nothing where the map has the size already.
  bool adaptive_pool(const Args& a, int result) {
    const at::IntArrayRef from = sizes(a[0]);
    std::vector<int64_t> to = constant(a[1]).toIntVector();
    if (from.size() != 4) return false;
    if (to.size() == 1) to.push_back(to[0]);
    Node node;
    if (to == std::vector<int64_t>{1, 1}) {
      node.op = Op::kGlobalAvgPool2d;
      finish(node, {a[0]}, result, "avgpool");
    } else if (to[0] == from[2] && to[1] == from[3]) {
      nodes_[result] = node_of(std::get<int>(a[0]), "aten::adaptive_avg_pool2d");
    } else if (to[0] > 0 && to[1] > 0 && from[2] % to[0] == 0 && from[3] % to[1] == 0) {
      node.op = Op::kAvgPool2d;
      node.pool.kernel = node.pool.stride = {from[2] / to[0], from[3] / to[1]};
      finish(node, {a[0]}, result, "avgpool");
    } else {
      return false;
    }
    return true;
  }

  /// torchvision's: x * empty([N, 1, ...]).bernoulli_(1 - p).div_(1 - p).
  bool stochastic_depth(const std::string& op, const Args& a, int result) {
    const auto value = [&](size_t i) {
      const int* found = i < a.size() ? std::get_if<int>(&a[i]) : nullptr;
      return found != nullptr ? *found : kUndefined;
    };
    if (op == "aten::empty") {
      noise_[result] = {};
      return true;
    }
    const auto noise = noise_.find(value(0));
    if (op == "aten::bernoulli" && noise != noise_.end() && a.size() > 1 && std::holds_alternative<c10::IValue>(a[1])) {
      noise_[result] = {.survival = constant(a[1]).toScalar().toDouble(), .drawn = true};
      return true;
    }
    if (op == "aten::div" && noise != noise_.end() && noise->second.drawn &&
        std::holds_alternative<c10::IValue>(a[1]) && constant(a[1]).toScalar().toDouble() == noise->second.survival) {
      noise_[result] = noise->second;
      noise_[result].scaled = true;
      return true;
    }
    if (op != "aten::mul") return false;
    for (size_t side = 0; side < 2; ++side) {
      const auto mask = noise_.find(value(side));
      if (mask == noise_.end() || nodes_.count(value(1 - side)) == 0) continue;
      const at::IntArrayRef s = sizes(a[side]);
      const bool per_sample = !s.empty() && s[0] == kBatch[0] && s.size() == sizes(a[1 - side]).size() &&
                              std::all_of(s.begin() + 1, s.end(), [](int64_t size) { return size == 1; });
      if (!per_sample || !mask->second.drawn || (!mask->second.scaled && mask->second.survival != 0.0)) return false;
      Node node;
      node.op = Op::kStochasticDepth;
      node.dropout = 1.0 - mask->second.survival;
      finish(node, {a[1 - side]}, result, "stochastic_depth");
      return true;
    }
    return false;
  }

  /// An operator whose results are views: each is a node of its own.
  void views(const Record& record, const std::string& full) {
    const auto& arguments = record.op.schema().arguments();
    const auto* alias = arguments.empty() ? nullptr : arguments[0].alias_info();
    if (record.results.empty() || alias == nullptr || alias->isWrite()) {
      throw GraphError(fmt::format("{}{}: operators with {} results are not supported", full, near(current_),
                                   record.results.size()));
    }
    int64_t begin = 0;
    for (size_t i = 0; i < record.results.size(); ++i) {
      const at::IntArrayRef from = sizes(record.args[0]), to = r_.values[record.results[i]].tensor.sizes();
      bool channels = from.size() >= 2 && from.size() == to.size() && full.find("unbind") == std::string::npos;
      for (size_t d = 0; channels && d < from.size(); ++d) channels = d == 1 || from[d] == to[d];
      if (channels && is_computed(record.args[0]) && same_numbers()) {
        add_slice(record.args[0], begin, record.results[i]);
        begin += to[1];
      } else {
        generic(record, record.results[i], i);
      }
    }
  }

  void add_slice(const RecordedArg& x, int64_t begin, int result) {
    Node node;
    node.op = Op::kChannelSlice;
    const int64_t channels = sizes(x)[1];
    node.begin = std::clamp<int64_t>(begin < 0 ? begin + channels : begin, 0, channels);
    finish(node, {x}, result, "channel_slice");
  }

  void linear(const RecordedArg& x, const RecordedArg& weight, const RecordedArg& bias, int result) {
    if (sizes(x).size() < 2 || !is_parameter(weight)) {
      throw GraphError(fmt::format(
          "aten::linear{}: only inputs [N, ..., F] and weights that are parameters are supported", near(current_)));
    }
    Node node;
    node.op = Op::kLinear;
    node.tensors.weight = parameter(weight, "weight");
    node.tensors.bias = optional_parameter(bias);
    if (node.tensors.bias.defined() && node.tensors.bias.numel() != node.tensors.weight.size(0)) {
      throw GraphError(fmt::format("aten::linear{}: expected a bias of {} values, found {}", near(current_),
                                   node.tensors.weight.size(0), node.tensors.bias.numel()));
    }
    finish(node, {x}, result, module_of(weight));
  }

  void add_flatten(int from, int result) {
    Node node;
    node.op = Op::kFlatten;
    node.inputs = {from};
    node.name = unique("flatten");
    add(std::move(node), result);
  }

  int finish(Node& node, const std::vector<RecordedArg>& inputs, int result, const std::string& name) {
    for (const RecordedArg& input : inputs) {
      node.inputs.push_back(node_of(std::get<int>(input), name_of(r_.records[current_])));
    }
    node.name = unique(name);
    return add(std::move(node), result);
  }

  int add(Node node, int value) {
    const auto shape = r_.values[value].tensor.sizes();
    if (node.sizes.empty()) node.sizes.assign(shape.begin() + std::min<size_t>(1, shape.size()), shape.end());
    graph_.nodes.push_back(std::move(node));
    nodes_[value] = static_cast<int>(graph_.nodes.size()) - 1;
    return nodes_[value];
  }

  /// Operators that move elements of their first argument; they work on codes as on floats.
  static bool is_movement(const std::string& op) {
    static const std::set<std::string> names{
        "aten::view",     "aten::reshape",  "aten::transpose", "aten::permute",       "aten::movedim",
        "aten::slice",    "aten::select",   "aten::narrow",    "aten::unsqueeze",     "aten::squeeze",
        "aten::flatten",  "aten::expand",   "aten::unflatten", "aten::pixel_shuffle", "aten::channel_shuffle",
        "aten::chunk",    "aten::split",    "aten::unbind",    "aten::tensor_split",  "aten::pixel_unshuffle",
        "aten::swapaxes", "aten::swapdims", "aten::flip",      "aten::roll",          "aten::split_with_sizes"};
    return names.count(op) != 0;
  }

  /// An operator without a type of its own: replayed through the dispatcher. `item`: which of a list of results.
  void generic(const Record& record, int result, size_t item = 0) {
    const Record& other = other_.records[current_];
    Node node;
    node.op = Op::kCall;
    node.call_name = name_of(record);
    const auto sizes = r_.values[result].tensor.sizes(), other_sizes = other_.values.at(result).tensor.sizes();
    if (!sizes.empty() && sizes[0] == kBatch[0] && other_sizes[0] != kBatch[1]) {
      throw GraphError(fmt::format("{}{}: its result's first size is {} with every batch: write the batch as x.size(0)",
                                   node.call_name, near(current_), sizes[0]));
    }
    if (node.call_name.find("dropout") != std::string::npos) {
      throw GraphError(
          fmt::format("{}{}: of the kinds of dropout only aten::dropout is supported", node.call_name, near(current_)));
    }
    if (node.call_name.find("bernoulli") != std::string::npos || node.call_name.find("rand") != std::string::npos) {
      throw GraphError(fmt::format("{}{}: random numbers are supported in dropout and stochastic depth only",
                                   node.call_name, near(current_)));
    }
    node.name = unique(short_name(node.call_name));
    for (size_t i = 0; i < record.args.size(); ++i) {
      const auto* alias = record.op.schema().arguments()[i].alias_info();
      if (alias == nullptr || !alias->isWrite() || node.call_name.find("_.") != std::string::npos ||
          node.call_name.back() == '_') {
        continue;
      }
      throw GraphError(fmt::format("{}{}: writes to an argument", node.call_name, near(current_)));
    }

    std::vector<Slot> slots;
    std::vector<at::Tensor> tensors;
    const auto place = [&](int value) {
      if (value == kUndefined) return -1;
      if (!r_.values[value].name.empty()) {
        tensors.push_back(r_.values[value].tensor);
        return -1 - static_cast<int>(tensors.size());
      }
      node.inputs.push_back(node_of(value, node.call_name));
      return static_cast<int>(node.inputs.size()) - 1;
    };
    bool depends_on_batch = false;
    for (size_t i = 0; i < record.args.size(); ++i) {
      Slot slot;
      if (const int* value = std::get_if<int>(&record.args[i])) {
        slot.inputs.push_back(place(*value));
      } else if (const auto* list = std::get_if<std::vector<int>>(&record.args[i])) {
        slot.is_list = true;
        for (const int value : *list) slot.inputs.push_back(place(value));
      } else {
        slot.is_constant = true;
        slot.constant = std::get<c10::IValue>(record.args[i]);
        slot.multiples = batch_multiples(slot.constant, std::get<c10::IValue>(other.args[i]), node.call_name);
        depends_on_batch = depends_on_batch || !slot.multiples.empty();
        if (slot.constant.isInt()) node.ints.push_back(slot.multiples.empty() ? slot.constant.toInt() : 0);
        if (slot.constant.isIntList()) {
          std::vector<int64_t> values = slot.constant.toIntVector();
          for (const auto& [at, factor] : slot.multiples) values[at] = 0;
          node.ints.insert(node.ints.end(), values.begin(), values.end());
        }
      }
      slots.push_back(std::move(slot));
    }
    if (node.inputs.empty() && tensors.empty()) {
      throw GraphError(fmt::format("{}{}: makes a tensor that does not depend on the input: register it as a buffer",
                                   node.call_name, near(current_)));
    }
    const std::string base = node.call_name.substr(0, node.call_name.find('.'));
    if (is_movement(base) && node.inputs.size() == 1 && tensors.empty()) node.op = Op::kMove;
    // A function of parameters alone runs with the network's input beside it: every node stands behind the input.
    if (node.inputs.empty()) node.inputs.push_back(graph_.input);

    // Views of the recorded memory format may not exist in another: a reshape is the same function.
    c10::OperatorHandle op = record.op;
    if (node.call_name == "aten::view") op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::reshape", "");
    node.call = replay(op, std::move(slots), std::move(tensors), item);
    add(std::move(node), result);
  }

  bool is_computed(const RecordedArg& arg) const {
    const int* value = std::get_if<int>(&arg);
    return value != nullptr && nodes_.count(*value) != 0;
  }

  bool both_computed(const Args& a) const { return is_computed(a[0]) && is_computed(a[1]); }
  bool equal_sizes(const Args& a) const { return sizes(a[0]) == sizes(a[1]); }

  /// One operand [N, C, 1, 1], as squeeze-and-excitation multiplies.
  bool scales_channels(const Args& a) const {
    const at::IntArrayRef x = sizes(a[0]), y = sizes(a[1]);
    if (x.size() != 4 || y.size() != 4 || x[0] != y[0] || x[1] != y[1]) return false;
    return (x[2] == 1 && x[3] == 1) || (y[2] == 1 && y[3] == 1);
  }

  bool is_concat(const Args& a) const {
    const auto* list = std::get_if<std::vector<int>>(&a[0]);
    if (list == nullptr || list->empty() || !constant(a[1]).isInt()) return false;
    const auto rank = static_cast<int64_t>(r_.values[list->front()].tensor.dim());
    const int64_t dim = constant(a[1]).toInt();
    return rank >= 2 && (dim == 1 || dim + rank == 1) &&
           std::all_of(list->begin(), list->end(), [&](int value) { return nodes_.count(value) != 0; });
  }

  bool is_channel_slice(const Args& a) const {
    const bool one_by_one = a.size() == 4 || (constant(a[4]).isInt() && constant(a[4]).toInt() == 1);  // narrow, slice
    if (!is_computed(a[0]) || sizes(a[0]).size() < 2 || !one_by_one) return false;
    const int64_t dim = constant(a[1]).toInt();
    return dim == 1 || dim + static_cast<int64_t>(sizes(a[0]).size()) == 1;
  }

  int node_of(int value, const std::string& reader) const {
    const auto found = nodes_.find(value);
    if (found == nodes_.end()) {
      if (noise_.count(value) != 0) {
        throw GraphError(fmt::format("{}{}: reads a tensor that does not depend on the input: register it as a buffer",
                                     reader, near(current_)));
      }
      throw GraphError(fmt::format("{}{}: reads a parameter as if it were a feature map, which is not supported",
                                   reader, near(current_)));
    }
    return found->second;
  }

  static std::string short_name(const std::string& op) {
    const size_t start = op.rfind(':') + 1;
    std::string name = op.substr(start, op.find('.', start) - start);
    while (name.size() > 1 && name.back() == '_') name.pop_back();
    return name;
  }

  /// A name that neither another node nor (for operators) a module of the network has.
  std::string unique(const std::string& wanted) {
    const bool module = modules_.count(wanted) != 0 && names_.count(wanted) == 0 && current_is_module(wanted);
    if (module || (modules_.count(wanted) == 0 && names_.count(wanted) == 0)) {
      names_.insert(wanted);
      return wanted;
    }
    for (int i = 1;; ++i) {
      const std::string candidate = wanted + "_" + std::to_string(i);
      if (modules_.count(candidate) == 0 && names_.insert(candidate).second) return candidate;
    }
  }

  /// Whether the node being named owns parameters of module `name`.
  bool current_is_module(const std::string& name) const {
    for (const RecordedArg& arg : r_.records[current_].args) {
      const int* value = std::get_if<int>(&arg);
      if (value == nullptr || *value < 0) continue;
      const auto transposed = transposed_.find(*value);
      const int source = transposed == transposed_.end() ? *value : transposed->second;
      if (!r_.values[source].name.empty() && module_of(source) == name) return true;
    }
    return false;
  }

  Graph graph_;
  std::map<int, int> nodes_;       // value -> node
  std::map<int, int> transposed_;  // value that is the transpose of a parameter -> that parameter
  /// Random masks under construction (stochastic_depth).
  struct Noise {
    double survival = 0.0;
    bool drawn = false, scaled = false;
  };
  std::map<int, Noise> noise_;
  std::set<std::string> modules_, names_;
};

}  // namespace

Graph trace(torch::nn::Module& module, const Forward& forward, const std::vector<int64_t>& input) {
  NamedTensors tensors;
  for (const auto& item : module.named_parameters()) tensors.emplace_back(item.key(), item.value());
  for (const auto& item : module.named_buffers()) tensors.emplace_back(item.key(), item.value());

  const at::NoGradGuard no_grad;
  const Rehearsal rehearsal(module);
  Recording recordings[2];
  try {
    for (int i = 0; i < 2; ++i) {
      std::vector<int64_t> sizes{kBatch[i]};
      sizes.insert(sizes.end(), input.begin(), input.end());
      recordings[i] = record(forward, at::zeros(sizes, at::kFloat), tensors);
    }
  } catch (const c10::Error& error) {
    throw GraphError(fmt::format("the network does not run on an input of sizes [N, {}]: {}", fmt::join(input, ", "),
                                 error.what_without_backtrace()));
  }
  return Translator(recordings[0], recordings[1]).run();
}

Graph trace(torch::nn::Module& module, const std::function<at::Tensor(const at::Tensor&)>& forward,
            const std::vector<int64_t>& input) {
  return trace(module, Forward([&](const at::Tensor& x) { return NamedTensors{{"logits", forward(x)}}; }), input);
}

}  // namespace qat::graph
