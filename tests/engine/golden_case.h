// A case of tests/goldens/integer (format: its README): parsing, layouts, broadcasting.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "core/base/error.h"

namespace qat::golden {

using Json = nlohmann::json;
using Shape = std::vector<int64_t>;

inline int64_t product(const Shape& shape, size_t begin = 0, size_t end = SIZE_MAX) {
  end = std::min(end, shape.size());
  return begin >= end ? 1
                      : std::accumulate(shape.begin() + static_cast<int64_t>(begin),
                                        shape.begin() + static_cast<int64_t>(end), int64_t{1}, std::multiplies<>());
}

/// A hex-float string ("0x1p-3", "inf", "nan") or a number.
inline float parse_float(const Json& json) {
  if (json.is_number()) return json.get<float>();
  const auto text = json.get<std::string>();
  char* end = nullptr;
  const float value = std::strtof(text.c_str(), &end);
  QAT_CHECK(!text.empty() && *end == '\0', "'{}' is not a hex float", text);
  return value;
}

/// Row-major NCHW (or [N, F], or [F]); codes, or values where dtype is float32.
struct Array {
  Shape shape;
  std::string dtype;
  std::vector<int32_t> codes;
  std::vector<float> values;

  int64_t batch() const { return shape.size() < 2 ? 1 : shape[0]; }
  int64_t channels() const { return shape.empty() ? 1 : shape[shape.size() < 2 ? 0 : 1]; }
  int64_t pixels() const { return product(shape, 2); }

  static Array parse(const Json& json) {
    Array a;
    a.shape = json.at("shape").get<Shape>();
    a.dtype = json.at("dtype").get<std::string>();
    if (json.contains("codes")) a.codes = json.at("codes").get<std::vector<int32_t>>();
    if (json.contains("values")) {
      for (const Json& v : json.at("values")) a.values.push_back(parse_float(v));
    }
    const size_t found = a.dtype == "float32" ? a.values.size() : a.codes.size();
    QAT_CHECK(found == static_cast<size_t>(product(a.shape)), "expected {} elements of {}, found {}", product(a.shape),
              a.dtype, found);
    return a;
  }
};

struct Case {
  std::string name, op;
  Json attributes;
  std::map<std::string, Array> inputs;
  std::map<std::string, std::vector<float>> scales;  // one value, or one per channel
  std::map<std::string, std::vector<int32_t>> zero_points;
  Array expected;
  Array x_codes;  // low_bit: the codes between quantizer and convolution; else empty

  const Array& input(const std::string& key) const {
    QAT_CHECK(inputs.contains(key), "input {} is missing", key);
    return inputs.at(key);
  }
  const std::vector<float>& scale_list(const std::string& key) const {
    QAT_CHECK(scales.contains(key), "scale of {} is missing", key);
    return scales.at(key);
  }
  float scale(const std::string& key) const {
    QAT_CHECK(scale_list(key).size() == 1, "expected one scale for {}", key);
    return scales.at(key)[0];
  }
  std::vector<int32_t> zero_list(const std::string& key) const {
    return zero_points.contains(key) ? zero_points.at(key) : std::vector<int32_t>{0};
  }
  int32_t zero(const std::string& key) const {
    QAT_CHECK(zero_list(key).size() == 1, "expected one zero point for {}", key);
    return zero_list(key)[0];
  }
  bool has_bias() const { return inputs.contains("b"); }
  bool flag(const char* key) const {
    if (!attributes.contains(key)) return false;
    const Json& value = attributes.at(key);
    return value.is_boolean() ? value.get<bool>() : value.get<int>() != 0;
  }
  Shape list(const char* key, const Shape& absent) const {
    return attributes.contains(key) ? attributes.at(key).get<Shape>() : absent;
  }
  /// The axis of per-channel parameters or of a concatenation, counted from the front.
  int64_t axis(int64_t rank) const {
    const auto axis = attributes.value("axis", int64_t{1});
    return axis < 0 ? axis + rank : axis;
  }

  static Case parse(const Json& json) {
    Case c;
    c.name = json.at("name").get<std::string>();
    c.op = json.at("op").get<std::string>();
    c.attributes = json.value("attributes", Json::object());
    for (const auto& [key, value] : json.at("inputs").items()) c.inputs[key] = Array::parse(value);
    for (const auto& [key, value] : json.at("scales").items()) {
      if (value.is_array()) {
        for (const Json& v : value) c.scales[key].push_back(parse_float(v));
      } else {
        c.scales[key] = {parse_float(value)};
      }
    }
    for (const auto& [key, value] : json.at("zero_points").items()) {
      c.zero_points[key] = value.is_array() ? value.get<std::vector<int32_t>>() : std::vector{value.get<int32_t>()};
    }
    c.expected = Array::parse(json.at("expected"));
    if (json.contains("x_codes")) c.x_codes = Array::parse(json.at("x_codes"));
    return c;
  }
};

/// What a case gave: codes or values in the expected order, and low_bit's codes in the middle.
struct Result {
  std::vector<int32_t> codes;
  std::vector<float> values;
  std::vector<int32_t> x_codes;
};

/// [n][c][p] -> [n][p][c].
template <class Out, class In>
std::vector<Out> to_nhwc(const std::vector<In>& x, int64_t n, int64_t c, int64_t p) {
  std::vector<Out> y(x.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < c; ++j) {
      for (int64_t k = 0; k < p; ++k) {
        y[static_cast<size_t>((i * p + k) * c + j)] = static_cast<Out>(x[static_cast<size_t>((i * c + j) * p + k)]);
      }
    }
  }
  return y;
}

/// [n][p][c] -> [n][c][p].
template <class Out, class In>
std::vector<Out> to_nchw(const std::vector<In>& x, int64_t n, int64_t c, int64_t p) {
  return to_nhwc<Out>(x, n, p, c);
}

/// numpy's broadcast of `a` to `shape`.
inline Array expand(const Array& a, const Shape& shape) {
  QAT_CHECK(a.shape.size() <= shape.size(), "cannot broadcast to fewer dimensions");
  Shape source(shape.size() - a.shape.size(), 1);
  source.insert(source.end(), a.shape.begin(), a.shape.end());
  Array y{.shape = shape, .dtype = a.dtype, .codes = {}, .values = {}};
  for (int64_t i = 0; i < product(shape); ++i) {
    int64_t rest = i, from = 0, stride = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      QAT_CHECK(source[d] == shape[d] || source[d] == 1, "cannot broadcast {} to {}", source[d], shape[d]);
      if (source[d] != 1) from += rest % shape[d] * stride;
      rest /= shape[d];
      stride *= source[d];
    }
    y.codes.push_back(a.codes[static_cast<size_t>(from)]);
  }
  return y;
}

/// The operands of add or mul, made equal in shape except that one may stay [N, C, 1, 1].
struct Operands {
  Array a, b;
  bool broadcast_a = false, broadcast_b = false;

  explicit Operands(const Case& c) : a(c.input("a")), b(c.input("b")) {
    const Shape& y = c.expected.shape;
    broadcast_a = per_channel(a.shape, y);
    broadcast_b = per_channel(b.shape, y);
    // Only a product is the same whichever way the operand was spread; the runtime's sum was not tried.
    QAT_CHECK(c.op == "mul" || ((broadcast_a || a.shape == y) && (broadcast_b || b.shape == y)),
              "this broadcast of an add is not defined");
    const Shape channels = y.size() == 4 ? Shape{y[0], y[1], 1, 1} : y;
    a = expand(a, broadcast_a ? channels : y);
    b = expand(b, broadcast_b ? channels : y);
  }

 private:
  static bool per_channel(const Shape& x, const Shape& y) {
    return x.size() == 4 && y.size() == 4 && x != y && x[1] == y[1] && x[2] == 1 && x[3] == 1 && y[2] * y[3] != 1;
  }
};

/// The slices of [outer][channels][inner] along an axis; one slice for parameters of a whole tensor.
struct Slices {
  int64_t outer = 1, channels = 1, inner = 1;

  Slices(const Shape& shape, int64_t axis) {
    QAT_CHECK(axis >= 0 && axis < static_cast<int64_t>(shape.size()), "axis {} of {} dimensions", axis, shape.size());
    const auto at = static_cast<size_t>(axis);
    outer = product(shape, 0, at);
    channels = shape[at];
    inner = product(shape, at + 1);
  }
  /// Slices of a (de)quantized array: along the axis where there is a scale for each channel.
  static Slices of(const Case& c, const Array& x, size_t scales) {
    if (scales > 1) return Slices(x.shape, c.axis(static_cast<int64_t>(x.shape.size())));
    return Slices({product(x.shape)});
  }

  template <class T>
  std::vector<T> take(const std::vector<T>& x, int64_t channel) const {
    std::vector<T> y;
    for (int64_t o = 0; o < outer; ++o) {
      const auto first = x.begin() + (o * channels + channel) * inner;
      y.insert(y.end(), first, first + inner);
    }
    return y;
  }
  template <class T, class S>
  void put(const std::vector<S>& x, int64_t channel, std::vector<T>& y) const {
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t i = 0; i < inner; ++i) {
        y[static_cast<size_t>((o * channels + channel) * inner + i)] =
            static_cast<T>(x[static_cast<size_t>(o * inner + i)]);
      }
    }
  }

 private:
  explicit Slices(std::vector<int64_t> whole) : inner(whole[0]) {}
};

/// The element of a list with one value or one per channel.
template <class T>
T pick(const std::vector<T>& list, int64_t channel) {
  return list.size() == 1 ? list[0] : list.at(static_cast<size_t>(channel));
}

/// x0, x1, ... of a concatenation.
inline std::vector<std::string> concat_inputs(const Case& c) {
  std::vector<std::string> names;
  for (size_t i = 0; c.inputs.contains(fmt::format("x{}", i)); ++i) names.push_back(fmt::format("x{}", i));
  QAT_CHECK(!names.empty() && names.size() == c.inputs.size(), "expected inputs x0, x1, ...");
  return names;
}

}  // namespace qat::golden
