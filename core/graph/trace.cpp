#include "core/graph/trace.h"

#include <ATen/core/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/base/error.h"
#include "core/graph/record.h"

namespace qat::graph {
namespace {

// Two batch sizes that hardly occur as other sizes of a network.
constexpr int64_t kBatch[2] = {3, 5};

/// Turns a recording into typed nodes; `other` is the recording at the second batch size.
class Translator {
 public:
  Translator(const Recording& recording, const Recording& other) : r_(recording), other_(other) {
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
    graph_.output = node_of(r_.output, "the network's output");
    return std::move(graph_);
  }

 private:
  using Args = std::vector<RecordedArg>;

  void check_same_operators() const {
    const size_t common = std::min(r_.records.size(), other_.records.size());
    for (size_t i = 0; i < common; ++i) {
      if (name_of(r_.records[i]) == name_of(other_.records[i])) continue;
      throw GraphError(
          fmt::format("{}{}: with another batch size the network calls {} here: control flow must not "
                      "depend on the batch",
                      name_of(r_.records[i]), near(i), name_of(other_.records[i])));
    }
    if (r_.records.size() != other_.records.size()) {
      throw GraphError(
          "the network calls another number of operators with another batch size: control flow must not "
          "depend on the batch");
    }
  }

  void translate(size_t index) {
    const Record& record = r_.records[index];
    const std::string full = name_of(record);
    std::string op = full.substr(0, full.find('.'));
    if (op.size() > 1 && op.back() == '_' && op != "aten::__and_") op.pop_back();  // in place: single assignment here
    if (is_state(record)) return;
    if (record.results.size() != 1) {
      throw GraphError(
          fmt::format("{}{}: operators with {} results are not supported", full, near(index), record.results.size()));
    }
    current_ = index;
    const Args& a = record.args;
    const int result = record.results[0];
    Node node;
    if (op == "aten::conv2d" && full == op) {
      node.op = Op::kConv2d;
      node.tensors.weight = parameter(a[1], "weight");
      node.tensors.bias = optional_parameter(a[2]);
      node.geometry = {
          .stride = pair(a[3]), .padding = pair(a[4]), .dilation = pair(a[5]), .groups = constant(a[6]).toInt()};
      finish(node, {a[0]}, result, module_of(a[1]));
    } else if (op == "aten::linear") {
      linear(a[0], a[1], a[2], result);
    } else if (op == "aten::t" && is_parameter(a[0])) {
      transposed_[result] = std::get<int>(a[0]);
    } else if (op == "aten::addmm" && transposed_.count(std::get<int>(a[2])) != 0 && is_one(a[3]) && is_one(a[4])) {
      linear(a[1], transposed_.at(std::get<int>(a[2])), a[0], result);
    } else if ((op == "aten::matmul" || op == "aten::mm") && transposed_.count(std::get<int>(a[1])) != 0) {
      linear(a[0], transposed_.at(std::get<int>(a[1])), kUndefined, result);
    } else if (op == "aten::batch_norm") {
      node.op = Op::kBatchNorm;
      if (is_undefined(a[1]) || is_undefined(a[3])) {
        throw GraphError(fmt::format(
            "{}{}: batch norm without affine parameters or running statistics is not supported", full, near(index)));
      }
      node.tensors.batch_norm = autograd::BatchNorm{.gamma = parameter(a[1], "weight"),
                                                    .beta = parameter(a[2], "bias"),
                                                    .running_mean = parameter(a[3], "running_mean"),
                                                    .running_var = parameter(a[4], "running_var"),
                                                    .eps = constant(a[7]).toDouble(),
                                                    .momentum = constant(a[6]).toDouble()};
      if (node.tensors.batch_norm->momentum == 0.0) {
        throw GraphError(fmt::format("{}{}: batch norm with momentum 0 or none (a cumulative average) is not supported",
                                     full, near(index)));
      }
      finish(node, {a[0]}, result, module_of(a[1]));
    } else if (op == "aten::relu") {
      node.op = Op::kRelu;
      finish(node, {a[0]}, result, "relu");
    } else if (op == "aten::add" && both_computed(a) && is_one(a[2])) {
      node.op = Op::kAdd;
      finish(node, {a[0], a[1]}, result, "add");
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
    } else if (op == "aten::adaptive_avg_pool2d" && constant(a[1]).toIntVector() == std::vector<int64_t>{1, 1}) {
      node.op = Op::kGlobalAvgPool2d;
      finish(node, {a[0]}, result, "avgpool");
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
    } else {
      generic(record, other_.records[index], result);
    }
  }

  /// Bookkeeping that no value depends on, such as num_batches_tracked += 1.
  bool is_state(const Record& record) const {
    if (record.args.empty() || !is_parameter(record.args[0])) return false;
    const auto* alias = record.op.schema().arguments()[0].alias_info();
    return alias != nullptr && alias->isWrite();
  }

  void linear(const RecordedArg& x, const RecordedArg& weight, const RecordedArg& bias, int result) {
    if (sizes(x).size() != 2 || !is_parameter(weight)) {
      throw GraphError(fmt::format("aten::linear{}: only inputs [N, F] and weights that are parameters are supported",
                                   near(current_)));
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

  /// An operator without a type of its own: replayed through the dispatcher in float.
  void generic(const Record& record, const Record& other, int result) {
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
    node.name = unique(short_name(node.call_name));
    for (size_t i = 0; i < record.args.size(); ++i) {
      const auto* alias = record.op.schema().arguments()[i].alias_info();
      if (alias == nullptr || !alias->isWrite() || node.call_name.find("_.") != std::string::npos ||
          node.call_name.back() == '_') {
        continue;
      }
      throw GraphError(fmt::format("{}{}: writes to an argument", node.call_name, near(current_)));
    }

    // slots: per argument, the input that fills it; a constant; or a constant with the batch in it.
    struct Slot {
      std::vector<int> inputs;  // positions among the node's inputs; -1: undefined; -2 - k: tensors[k]
      bool is_list = false;
      c10::IValue constant;
      std::vector<size_t> batch_places;  // in an int list (or 0 for a single int)
      bool is_constant = false;
    };
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
        slot.batch_places = batch_places(slot.constant, std::get<c10::IValue>(other.args[i]), node.call_name);
      }
      slots.push_back(std::move(slot));
    }
    if (node.inputs.empty()) {
      throw GraphError(fmt::format("{}{}: makes a tensor that does not depend on the input: register it as a buffer",
                                   node.call_name, near(current_)));
    }

    node.call = [op = record.op, slots, tensors](const std::vector<at::Tensor>& inputs) {
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
        } else if (slot.batch_places.empty()) {
          stack.push_back(slot.constant);
        } else if (slot.constant.isInt()) {
          stack.emplace_back(inputs[0].size(0));
        } else {
          std::vector<int64_t> ints = slot.constant.toIntVector();
          for (const size_t at : slot.batch_places) ints[at] = inputs[0].size(0);
          stack.emplace_back(ints);
        }
      }
      // An in-place operator must not change a value that other nodes read.
      for (size_t i = 0; i < stack.size(); ++i) {
        const auto* alias = op.schema().arguments()[i].alias_info();
        if (alias != nullptr && alias->isWrite() && stack[i].isTensor()) stack[i] = stack[i].toTensor().clone();
      }
      op.callBoxed(stack);
      return stack.at(0).toTensor();
    };
    add(std::move(node), result);
  }

  std::vector<size_t> batch_places(const c10::IValue& a, const c10::IValue& b, const std::string& op) const {
    std::vector<int64_t> x, y;
    if (a.isInt() && b.isInt()) {
      x = {a.toInt()}, y = {b.toInt()};
    } else if (a.isIntList() && b.isIntList()) {
      x = a.toIntVector(), y = b.toIntVector();
    } else if (a.isDouble() && b.isDouble() && a.toDouble() != b.toDouble()) {
      throw GraphError(fmt::format("{}{}: the number {} depends on the batch in a way that cannot be replayed", op,
                                   near(current_), a.toDouble()));
    } else {
      return {};
    }
    std::vector<size_t> places;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (x[i] == y[i]) continue;
      if (x[i] != kBatch[0] || y[i] != kBatch[1]) {
        throw GraphError(fmt::format("{}{}: the size {} depends on the batch in a way that cannot be replayed", op,
                                     near(current_), x[i]));
      }
      places.push_back(i);
    }
    return places;
  }

  const c10::IValue& constant(const RecordedArg& arg) const {
    const auto* value = std::get_if<c10::IValue>(&arg);
    if (value == nullptr) {
      throw GraphError(fmt::format("{}{}: a tensor stands where a constant is expected", name_of(r_.records[current_]),
                                   near(current_)));
    }
    return *value;
  }

  std::array<int64_t, 2> pair(const RecordedArg& arg, const RecordedArg& otherwise = kUndefined) const {
    const std::vector<int64_t> ints = constant(arg).toIntVector();
    if (ints.empty()) return pair(otherwise);
    return {ints[0], ints.size() > 1 ? ints[1] : ints[0]};
  }

  bool is_one(const RecordedArg& arg) const {
    const auto* value = std::get_if<c10::IValue>(&arg);
    return value != nullptr && value->isScalar() && value->toScalar().toDouble() == 1.0;
  }

  bool is_undefined(const RecordedArg& arg) const {
    if (const int* value = std::get_if<int>(&arg)) return *value == kUndefined;
    const auto* value = std::get_if<c10::IValue>(&arg);
    return value != nullptr && value->isNone();
  }

  bool is_parameter(const RecordedArg& arg) const {
    const int* value = std::get_if<int>(&arg);
    return value != nullptr && *value >= 0 && !r_.values[*value].name.empty();
  }

  bool both_computed(const Args& a) const {
    for (int i = 0; i < 2; ++i) {
      const int* value = std::get_if<int>(&a[i]);
      if (value == nullptr || nodes_.count(*value) == 0) return false;
    }
    return r_.values[std::get<int>(a[0])].tensor.sizes() == r_.values[std::get<int>(a[1])].tensor.sizes();
  }

  bool is_spatial_mean(const Args& a) const {
    if (sizes(a[0]).size() != 4 || !constant(a[1]).isIntList()) return false;
    std::set<int64_t> dims;
    for (const int64_t d : constant(a[1]).toIntVector()) dims.insert(d < 0 ? d + 4 : d);
    return dims == std::set<int64_t>{2, 3};
  }

  /// [N, ...] -> [N, product of the rest].
  bool flattens(const RecordedArg& x, int result) const {
    const auto to = r_.values[result].tensor.sizes();
    const auto from = sizes(x);
    return from.size() >= 2 && to.size() == 2 && to[0] == from[0] &&
           other_.values.at(result).tensor.sizes()[0] == kBatch[1];
  }

  at::IntArrayRef sizes(const RecordedArg& arg) const { return r_.values[std::get<int>(arg)].tensor.sizes(); }

  at::Tensor parameter(const RecordedArg& arg, const char* what) const {
    if (!is_parameter(arg)) {
      throw GraphError(fmt::format("{}{}: its {} is computed, not a parameter", name_of(r_.records[current_]),
                                   near(current_), what));
    }
    return r_.values[std::get<int>(arg)].tensor;
  }

  at::Tensor optional_parameter(const RecordedArg& arg) const {
    return is_undefined(arg) ? at::Tensor() : parameter(arg, "bias");
  }

  /// "layer1.0.conv1" of "layer1.0.conv1.weight".
  std::string module_of(const RecordedArg& arg) const {
    const std::string& name = r_.values[std::get<int>(arg)].name;
    const size_t dot = name.rfind('.');
    return dot == std::string::npos ? name : name.substr(0, dot);
  }

  int node_of(int value, const std::string& reader) const {
    const auto found = nodes_.find(value);
    if (found == nodes_.end()) {
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

  std::string near(size_t index) const {
    for (size_t i = index + 1; i-- > 0;) {
      for (const RecordedArg& arg : r_.records[i].args) {
        if (is_parameter(arg)) return " (near " + module_of(arg) + ")";
      }
    }
    return "";
  }

  const Recording& r_;
  const Recording& other_;
  Graph graph_;
  std::map<int, int> nodes_;       // value -> node
  std::map<int, int> transposed_;  // value that is the transpose of a parameter -> that parameter
  std::set<std::string> modules_, names_;
  size_t current_ = 0;
};

/// Evaluation mode; afterwards every module has its own mode back (a user may keep a batch norm in evaluation).
class Evaluation {
 public:
  explicit Evaluation(torch::nn::Module& root) : root_(root), training_(root.is_training()) {
    for (const auto& module : root.modules(false)) modes_.emplace_back(module, module->is_training());
    root.eval();
  }
  ~Evaluation() {
    root_.train(training_);
    for (const auto& [module, training] : modes_) module->train(training);  // outer modules first
  }
  Evaluation(const Evaluation&) = delete;
  Evaluation& operator=(const Evaluation&) = delete;

 private:
  torch::nn::Module& root_;
  bool training_;
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> modes_;
};

}  // namespace

Graph trace(torch::nn::Module& module, const std::function<at::Tensor(const at::Tensor&)>& forward,
            const std::vector<int64_t>& input) {
  NamedTensors tensors;
  for (const auto& item : module.named_parameters()) tensors.emplace_back(item.key(), item.value());
  for (const auto& item : module.named_buffers()) tensors.emplace_back(item.key(), item.value());

  const Evaluation evaluation(module);
  const at::NoGradGuard no_grad;
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

}  // namespace qat::graph
