// What the translation of a recording asks of it: arguments, parameters, sizes, the layer nearby. Internal to
// trace.cpp.
#pragma once

#include <array>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/graph/record.h"
#include "core/nn/activation.h"
#include "core/nn/weighted.h"

namespace qat::graph {

// Two batch sizes that hardly occur as other sizes of a network (3 does: colours; queries, keys and values).
constexpr int64_t kBatch[2] = {5, 7};

/// Reads one recording; `other` is that at the second batch size. current_ is the record being translated.
class Reader {
 protected:
  using Args = std::vector<RecordedArg>;

  Reader(const Recording& recording, const Recording& other) : r_(recording), other_(other) {}

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

  /// Whether the current operator's numbers are the same for both batch sizes.
  bool same_numbers() const {
    const Args &a = r_.records[current_].args, &b = other_.records[current_].args;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      const auto *x = std::get_if<c10::IValue>(&a[i]), *y = std::get_if<c10::IValue>(&b[i]);
      if (x == nullptr || y == nullptr) continue;
      if (x->isInt() && y->isInt() && x->toInt() != y->toInt()) return false;
      if (x->isDouble() && y->isDouble() && x->toDouble() != y->toDouble()) return false;
      if (x->isIntList() && y->isIntList() && x->toIntVector() != y->toIntVector()) return false;
    }
    return true;
  }

  /// Bookkeeping that no value depends on, such as num_batches_tracked += 1.
  bool is_state(const Record& record) const {
    if (record.args.empty() || !is_parameter(record.args[0])) return false;
    const auto* alias = record.op.schema().arguments()[0].alias_info();
    return alias != nullptr && alias->isWrite();
  }

  /// Places of integers that are multiples of the batch, with their factors.
  std::vector<std::pair<size_t, int64_t>> batch_multiples(const c10::IValue& a, const c10::IValue& b,
                                                          const std::string& op) const {
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
    std::vector<std::pair<size_t, int64_t>> places;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (x[i] == y[i]) continue;
      const int64_t factor = x[i] / kBatch[0];
      if (x[i] != factor * kBatch[0] || y[i] != factor * kBatch[1]) {
        throw GraphError(fmt::format("{}{}: the size {} depends on the batch in a way that cannot be replayed", op,
                                     near(current_), x[i]));
      }
      places.emplace_back(i, factor);
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

  std::string near(size_t index) const {
    for (size_t i = index + 1; i-- > 0;) {
      for (const RecordedArg& arg : r_.records[i].args) {
        if (is_parameter(arg)) return " (near " + module_of(arg) + ")";
      }
    }
    return "";
  }

  /// padding stays empty where it is a word that symmetric numbers cannot say.
  nn::ConvGeometry geometry_of(const std::string& op, const Args& a, int64_t spatial) const {
    const auto ints = [&](const RecordedArg& arg) {
      std::vector<int64_t> values = constant(arg).toIntVector();
      if (values.size() == 1) values.assign(static_cast<size_t>(spatial), values[0]);
      return values;
    };
    nn::ConvGeometry g;
    g.stride = ints(a[3]);
    g.transposed = op.find("transpose") != std::string::npos;
    if (g.transposed) {
      g.padding = ints(a[4]), g.output_padding = ints(a[5]), g.groups = constant(a[6]).toInt(), g.dilation = ints(a[7]);
      return g;
    }
    g.dilation = ints(a[5]), g.groups = constant(a[6]).toInt();
    if (!constant(a[4]).isString()) {
      g.padding = ints(a[4]);
      return g;
    }
    const bool same = constant(a[4]).toStringRef() == "same";
    for (int64_t d = 0; d < spatial; ++d) {
      const int64_t total =
          same ? g.dilation[static_cast<size_t>(d)] * (sizes(a[1])[static_cast<size_t>(d) + 2] - 1) : 0;
      if (total % 2 != 0) {
        g.padding.clear();
        break;
      }
      g.padding.push_back(total / 2);
    }
    return g;
  }

  nn::Activation activation_of(const std::string& op, const Args& a) const {
    using Kind = nn::Activation::Kind;
    const auto limit = [&](size_t i, double otherwise) {
      return i < a.size() && !is_undefined(a[i]) ? constant(a[i]).toScalar().toDouble() : otherwise;
    };
    constexpr double kNone = std::numeric_limits<double>::infinity();
    if (op == "aten::relu") return nn::Activation::relu();
    if (op == "aten::relu6") return nn::Activation::clip(0.0, 6.0);
    if (op == "aten::hardtanh") return nn::Activation::clip(limit(1, -1.0), limit(2, 1.0));
    if (op == "aten::leaky_relu") return {.kind = Kind::kLeakyRelu, .slope = limit(1, 0.01)};
    if (op == "aten::sigmoid") return {.kind = Kind::kSigmoid};
    if (op == "aten::hardsigmoid") return {.kind = Kind::kHardsigmoid};
    if (op == "aten::hardswish") return {.kind = Kind::kHardswish};
    if (op == "aten::silu") return {.kind = Kind::kSilu};
    if (op == "aten::gelu") return {.kind = Kind::kGelu, .tanh_approximation = constant(a[1]).toStringRef() == "tanh"};
    const bool clamp = op == "aten::clamp" || op == "aten::clip", only_max = op == "aten::clamp_max";
    if (!clamp && !only_max && op != "aten::clamp_min") return {};
    for (size_t i = 1; i < a.size(); ++i) {
      if (!is_undefined(a[i]) && std::holds_alternative<int>(a[i])) return {};  // a limit that is computed
    }
    nn::Activation result = nn::Activation::clip(only_max ? -kNone : limit(1, -kNone), clamp      ? limit(2, kNone)
                                                                                       : only_max ? limit(1, kNone)
                                                                                                  : kNone);
    result.closed = true;
    return result;
  }

  const Recording& r_;
  const Recording& other_;
  size_t current_ = 0;
};

}  // namespace qat::graph
