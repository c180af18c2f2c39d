// A network's nodes as steps on places in one piece of memory.
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <tuple>
#include <utility>

#include "core/base/error.h"
#include "core/engine/engine.h"
#include "core/engine/network.h"
#include "core/engine/plan.h"
#include "core/ops/convolve.h"
#include "core/ops/encode.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/requantize.h"

namespace qat::engine {
namespace {

using integer::CodeType;
using integer::Node;
using integer::Op;
using integer::Tensor;

using Step = std::function<void()>;

ops::CodeRange range(const Tensor& t) { return {.lo = t.lo, .hi = t.hi, .zero_point = t.zero_point}; }

int64_t channels(const Tensor& t) { return t.shape[0]; }
int64_t pixels(const Tensor& t) { return t.size() / t.shape[0]; }

ops::PoolGeometry pool_geometry(const Node& node, const Tensor& x, int64_t batch) {
  ops::PoolGeometry g;
  g.batch = batch;
  g.channels = channels(x);
  g.in_h = x.shape[1];
  g.in_w = x.shape[2];
  std::tie(g.kernel_h, g.kernel_w) = std::pair(node.kernel[0], node.kernel[1]);
  std::tie(g.stride_h, g.stride_w) = std::pair(node.stride[0], node.stride[1]);
  std::tie(g.dilation_h, g.dilation_w) = std::pair(node.dilation[0], node.dilation[1]);
  std::tie(g.pad_top, g.pad_left) = std::pair(node.pad[0], node.pad[1]);
  std::tie(g.pad_bottom, g.pad_right) = std::pair(node.pad[2], node.pad[3]);
  g.ceil_mode = node.ceil_mode;
  return g;
}

/// Channels [begin, begin + taken) of rows of `channels`.
template <class Code>
void slice(const Code* x, int64_t rows, int64_t channels, int64_t begin, int64_t taken, Code* y) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(x + r * channels + begin, taken, y + r * taken);
}

template <class Code>
void shuffle(const Code* x, int64_t rows, int64_t channels, int64_t groups, Code* y) {
  const int64_t width = channels / groups;
  for (int64_t r = 0; r < rows; ++r, x += channels, y += channels) {
    for (int64_t i = 0; i < groups; ++i) {
      for (int64_t j = 0; j < width; ++j) y[j * groups + i] = x[i * width + j];
    }
  }
}

/// {C, H, W} stored NHWC -> NCHW order.
template <class Code>
void flatten(const Code* x, int64_t batch, int64_t channels, int64_t pixels, Code* y) {
  for (int64_t n = 0; n < batch; ++n, x += channels * pixels, y += channels * pixels) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) y[c * pixels + p] = x[p * channels + c];
    }
  }
}

/// Rows of `width` codes through a table (none: as they are) into rows of `stride`.
template <class Code>
void place(const Code* x, int64_t rows, int64_t width, const std::vector<int16_t>& table, Code* y, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, x += width, y += stride) {
    if (table.empty()) {
      std::copy_n(x, width, y);
      continue;
    }
    constexpr int32_t kLowest = std::numeric_limits<Code>::lowest();
    for (int64_t i = 0; i < width; ++i) y[i] = static_cast<Code>(table[static_cast<size_t>(x[i] - kLowest)]);
  }
}

/// Rows of pixels, a table for each channel.
template <class Code>
void encode_pixels(const uint8_t* pixels, int64_t rows, const std::vector<std::vector<int16_t>>& tables, Code* y) {
#pragma omp parallel for schedule(static) if (rows >= 1 << 14)
  for (int64_t r = 0; r < rows; ++r) {
    int64_t i = r * static_cast<int64_t>(tables.size());
    for (const std::vector<int16_t>& table : tables) {
      y[i] = static_cast<Code>(table[pixels[i]]);
      ++i;
    }
  }
}

}  // namespace

struct Runner::Memory {
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t(kAlignment)); }
  };

  Memory(const Network& network, int64_t batch)
      : network_(network), batch_(batch), plan(plan_memory(network.model, batch)) {
    bytes.reset(new (std::align_val_t(kAlignment)) uint8_t[plan.bytes]);
    std::memset(bytes.get(), 0, plan.bytes);
    for (size_t n = 0; n < network.model.nodes.size(); ++n) {
      const Node& node = network.model.nodes[n];
      const bool is_int8 =
          network.tensor(node.inputs[0]).type == CodeType::kInt8 || network.tensor(node.output).type == CodeType::kInt8;
      steps.push_back(is_int8 ? step<int8_t>(node, network.prepared[n]) : step<uint8_t>(node, network.prepared[n]));
    }
  }

  uint8_t* at(int tensor) const { return bytes.get() + plan.offset[static_cast<size_t>(tensor)]; }
  template <class Code>
  Code* codes(int tensor) const {
    return reinterpret_cast<Code*>(at(tensor));
  }
  float* values(int tensor) const { return reinterpret_cast<float*>(at(tensor)); }

  /// A tensor's elements, of its own kind.
  std::span<float> values_of(int tensor) const {
    const Tensor& t = network_.tensor(tensor);
    if (t.type != CodeType::kFloat32) return {};
    return {values(tensor), static_cast<size_t>(batch_ * t.size())};
  }
  std::span<uint8_t> codes_of(int tensor) const {
    const Tensor& t = network_.tensor(tensor);
    if (t.type == CodeType::kFloat32) return {};
    return {at(tensor), static_cast<size_t>(batch_ * t.size())};
  }

  template <class Code>
  Step step(const Node& node, const Prepared& prepared) {
    const Tensor &tx = network_.tensor(node.inputs[0]), &ty = network_.tensor(node.output);
    const Code* x = codes<Code>(node.inputs[0]);
    Code* y = codes<Code>(node.output);
    const int64_t size = batch_ * ty.size(), rows = batch_ * pixels(tx);
    switch (node.op) {
      case Op::kQuantize:
        if (tx.type == CodeType::kPixels) {
          return [=, p = at(node.inputs[0]), n = rows, &tables = prepared.tables] { encode_pixels(p, n, tables, y); };
        }
        return [=, v = values(node.inputs[0]), s = ty.scale, r = range(ty)] { ops::encode(v, size, s, r, y); };
      case Op::kDequantize:
        return [=, v = values(node.output), s = tx.scale, z = tx.zero_point] { ops::dequantize(x, size, s, z, v); };
      case Op::kConv:
      case Op::kLinear:
        return convolution<Code>(node, prepared);
      case Op::kAdd:
      case Op::kMul:
        return combination<Code>(node);
      case Op::kMaxPool:
        return [=, g = pool_geometry(node, tx, batch_)] { ops::max_pool(g, x, y); };
      case Op::kAveragePool:
        return [=, g = pool_geometry(node, tx, batch_), all = node.count_include_pad, sx = tx.scale, zx = tx.zero_point,
                sy = ty.scale, r = range(ty)] { ops::average_pool(g, all, x, sx, zx, sy, r, y); };
      case Op::kGlobalAveragePool:
        return [=, n = batch_, p = pixels(tx), c = channels(tx), sx = tx.scale, zx = tx.zero_point, sy = ty.scale,
                r = range(ty)] { ops::global_average_pool(x, n, p, c, sx, zx, sy, r, y); };
      case Op::kConcat:
        return concatenation<Code>(node, prepared);
      case Op::kTable:
        return [=, table = node.table.data()] { ops::lookup(x, size, table, y); };
      case Op::kRelu:
        return [=, z = tx.zero_point] { ops::relu(x, size, z, y); };
      case Op::kFlatten:
        if (x == y) return [] {};
        return [=, n = batch_, c = channels(tx), p = pixels(tx)] { flatten(x, n, c, p, y); };
      case Op::kChannelSlice:
        return [=, c = channels(tx), begin = node.begin, taken = channels(ty)] { slice(x, rows, c, begin, taken, y); };
      case Op::kChannelShuffle:
        return [=, c = channels(tx), groups = node.groups] { shuffle(x, rows, c, groups, y); };
    }
    throw Error(fmt::format("{}: unknown operator", node.name));
  }

  /// Gives the map that a convolution's kernel moves over, spread where it is a transposed one.
  template <class Code>
  std::function<const Code*()> map_under_kernel(const Node& node) {
    const Code* x = codes<Code>(node.inputs[0]);
    if (!node.is_spread()) return [=] { return x; };
    const Tensor& tx = network_.tensor(node.inputs[0]);
    ops::SpreadGeometry g = spread_geometry(node, tx);
    g.batch = batch_;
    spread.resize(std::max(spread.size(), static_cast<size_t>(batch_ * g.out_h() * g.out_w() * g.channels)));
    return [=, this, zero = static_cast<Code>(tx.zero_point)] {
      Code* map = reinterpret_cast<Code*>(spread.data());
      ops::spread(g, x, zero, map);
      return map;
    };
  }

  template <class Code>
  Step convolution(const Node& node, const Prepared& prepared) {
    const Tensor& ty = network_.tensor(node.output);
    const auto map = map_under_kernel<Code>(node);
    const int32_t* bias = node.bias.empty() ? nullptr : node.bias.data();
    const float* multiplier = prepared.multiplier.data();
    const ops::PackedConvolution<Code>* packed = prepared.convolution<Code>() ? &*prepared.convolution<Code>() : nullptr;
    const ops::SaturatingConvolution* saturating = prepared.saturating ? &*prepared.saturating : nullptr;
    const bool is_float = ty.type == CodeType::kFloat32;
    if (packed && !is_float) {
      return [=, n = batch_, r = range(ty), y = codes<Code>(node.output)] {
        packed->requantize(map(), n, bias, multiplier, r, y);
      };
    }
    accumulators.resize(std::max(accumulators.size(), static_cast<size_t>(batch_ * ty.size())));
    const auto accumulate = [=, this] {
      if constexpr (std::is_same_v<Code, uint8_t>) {
        if (saturating) return saturating->accumulate(map(), batch_, accumulators.data());
      }
      packed->accumulate(map(), batch_, accumulators.data());
    };
    const int64_t c = channels(ty), rows = batch_ * pixels(ty);
    if (is_float) {
      return [=, this, v = values(node.output)] {
        accumulate();
        ops::dequantize_accumulators(accumulators.data(), rows, c, bias, multiplier, v);
      };
    }
    return [=, this, r = range(ty), y = codes<Code>(node.output)] {
      accumulate();
      ops::requantize(accumulators.data(), rows, c, bias, multiplier, r, y);
    };
  }

  template <class Code>
  Step combination(const Node& node) {
    int ia = node.inputs[0], ib = node.inputs[1];
    const Tensor& ty = network_.tensor(node.output);
    const bool broadcast_a = network_.tensor(ia).shape != ty.shape, broadcast_b = network_.tensor(ib).shape != ty.shape;
    if (node.op == Op::kMul && broadcast_a) std::swap(ia, ib);
    const Tensor &ta = network_.tensor(ia), &tb = network_.tensor(ib);
    const Code *a = codes<Code>(ia), *b = codes<Code>(ib);
    Code* y = codes<Code>(node.output);
    const ops::BinaryParams p{.scale_a = ta.scale,
                              .scale_b = tb.scale,
                              .scale_y = ty.scale,
                              .zero_a = ta.zero_point,
                              .zero_b = tb.zero_point,
                              .range = range(ty)};
    const int64_t n = batch_, size = batch_ * ty.size(), width = channels(ty), map = pixels(ty);
    if (broadcast_a || broadcast_b) {
      if (node.op == Op::kMul) return [=] { ops::mul_broadcast(a, b, n, map, width, p, y); };
      return [=] { ops::add_broadcast(a, broadcast_a, b, n, map, width, p, y); };
    }
    if (node.op == Op::kMul) return [=] { ops::mul(a, b, size, p, y); };
    return [=] { ops::add(a, b, size, p, y); };
  }

  template <class Code>
  Step concatenation(const Node& node, const Prepared& prepared) {
    const Tensor& ty = network_.tensor(node.output);
    struct Part {
      const Code* x;
      int64_t width;
      const std::vector<int16_t>* table;
    };
    std::vector<Part> parts;
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      parts.push_back({codes<Code>(node.inputs[k]), channels(network_.tensor(node.inputs[k])), &prepared.tables[k]});
    }
    return [parts, rows = batch_ * pixels(ty), stride = channels(ty), y = codes<Code>(node.output)] {
      Code* out = y;
      for (const Part& part : parts) {
        place(part.x, rows, part.width, *part.table, out, stride);
        out += part.width;
      }
    };
  }

  const Network& network_;
  int64_t batch_;
  Plan plan;
  std::unique_ptr<uint8_t[], Free> bytes;
  std::vector<int32_t> accumulators;
  std::vector<uint8_t> spread;  // the input of a transposed convolution
  std::vector<Step> steps;      // by node
};

Runner::Runner(const Engine& engine, int64_t batch, int threads)
    : network_(engine.network_), batch_(batch), threads_(threads) {
  QAT_CHECK(batch >= 1 && threads >= 0, "expected a batch of at least 1 and a number of threads, found {} and {}",
            batch, threads);
  for (const Tensor& t : network_->model.tensors) {
    QAT_CHECK(batch <= std::numeric_limits<int64_t>::max() / 64 / t.size(), "a batch of {} is too large", batch);
  }
  memory_ = std::make_unique<Memory>(*network_, batch);
}

Runner::~Runner() = default;
Runner::Runner(Runner&&) noexcept = default;
Runner& Runner::operator=(Runner&&) noexcept = default;

std::span<float> Runner::input_values(size_t i) { return memory_->values_of(network_->model.inputs.at(i)); }
std::span<uint8_t> Runner::input_codes(size_t i) { return memory_->codes_of(network_->model.inputs.at(i)); }
std::span<const float> Runner::output_values(size_t i) const {
  return memory_->values_of(network_->model.outputs.at(i));
}
std::span<const uint8_t> Runner::output_codes(size_t i) const {
  return memory_->codes_of(network_->model.outputs.at(i));
}

void Runner::run(const Engine::Observer& observer) {
  const int before = omp_get_max_threads();
  if (threads_ > 0) omp_set_num_threads(threads_);
  for (size_t n = 0; n < memory_->steps.size(); ++n) {
    memory_->steps[n]();
    if (!observer) continue;
    const int y = network_->model.nodes[n].output;
    const auto codes = memory_->codes_of(y);
    const auto values = memory_->values_of(y);
    observer(y, {.batch = batch_, .codes = {codes.begin(), codes.end()}, .values = {values.begin(), values.end()}});
  }
  if (threads_ > 0) omp_set_num_threads(before);
}

}  // namespace qat::engine
