#include "core/device/builder.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/ops/cuda/encode.h"
#include "core/ops/cuda/follow.h"
#include "core/ops/cuda/pointwise.h"

namespace qat::device {

using namespace ops::cuda;  // NOLINT: the kernels, by the names of core/ops

namespace {

int64_t elements_of(const std::vector<int64_t>& sizes) {
  int64_t n = 1;
  for (const int64_t size : sizes) n *= size;
  return n;
}

}  // namespace

Builder::Builder(Shared& shared, const Network& network, const Options& options, int64_t batch, Program& program)
    : shared_(shared),
      network_(network),
      options_(options),
      batch_(batch),
      program_(program),
      arena_(shared.arena),
      state_(shared.state),
      values_(network.layers.size()),
      readers_(network.layers.size()) {
  for (size_t i = 0; i < network.layers.size(); ++i) {
    for (const int input : network.layers[i].inputs)
      readers_[static_cast<size_t>(input)].push_back(static_cast<int>(i));
  }
}

void Builder::build(const DeviceBatch& inputs) {
  encode_weights();
  clear_sums();
  std::vector<Backward> backward;
  backward.push_back(input(0, inputs.images));
  for (int i = 1; i < static_cast<int>(network_.layers.size()); ++i) backward.push_back(add_layer(i));
  loss(inputs);
  program_.end_forward();
  for (int i = static_cast<int>(backward.size()) - 1; i >= 0; --i) {
    // Without a gradient nobody reads it, or nothing before it learns.
    if (backward[static_cast<size_t>(i)] && value(i).gradient) backward[static_cast<size_t>(i)]();
  }
}

Builder::Backward Builder::add_layer(int index) {
  switch (layer(index).kind) {
    case LayerKind::kConvolution:
      return convolution(index);
    case LayerKind::kAdd:
      return addition(index);
    case LayerKind::kRelu:
      return relu(index);
    case LayerKind::kMaxPool:
      return max_pool(index);
    case LayerKind::kGlobalAveragePool:
      return global_average_pool(index);
    case LayerKind::kAveragePool:
      return average_pool(index);
    case LayerKind::kFlatten:
      return flatten(index);
    case LayerKind::kMultiply:
      return multiplication(index);
    case LayerKind::kTable:
    case LayerKind::kConcat:
      return tables(index);
    case LayerKind::kMoveChannels:
      return move_channels(index);
    case LayerKind::kDropout:
      return dropout(index);
    case LayerKind::kInput:
      break;
  }
  throw Error(fmt::format("{}: a network has one input, its first layer", layer(index).name));
}

std::optional<FollowedRange> Builder::followed(const Layer& layer) {
  if (!layer.output || !layer.output->follow) return std::nullopt;
  const OutputQuantizer& q = *layer.output;
  const Following& f = *q.follow;
  FollowedRange range;
  using Rule = FollowedRange::Rule;
  static_assert(static_cast<int>(FollowRule::kExtremes) == static_cast<int>(Rule::kExtremes) &&
                static_cast<int>(FollowRule::kLast) == static_cast<int>(Rule::kLast));
  range.rule = static_cast<Rule>(f.rule);
  range.averaging = f.averaging, range.starts_here = f.starts_here;
  range.is_signed = f.is_signed, range.affine = f.affine;
  range.lo = q.lo, range.hi = q.hi;
  range.symmetric_zero_point = f.symmetric_zero_point;
  range.lowest = f.lowest, range.highest = f.highest;
  range.range = state_.at<double>(f.range);
  range.batches = state_.at<int64_t>(f.batches);
  range.scale = state_.at<float>(q.scale);
  range.zero_point = state_.at<int32_t>(q.zero_point);
  return range;
}

void Builder::follow(const Layer& layer, const double* ends, bool relu) {
  const std::optional<FollowedRange> range = followed(layer);
  program_.add(layer.name, {},
               [=, failed = shared_.failed](const Run& run) { follow_range(ends, relu, *range, failed, run.stream); });
}

bool Builder::learns(const Layer& layer) const {
  return layer.output && layer.output->learns && shared_.gradient_of(layer.output->scale) != nullptr;
}

Builder::Value& Builder::make_codes(int index) {
  const Layer& l = layer(index);
  Value& made = value(index);
  made.elements = batch_ * elements_of(l.sizes);
  made.codes = program_.make<uint8_t>(made.elements);
  made.needs_gradient = l.kind == LayerKind::kConvolution || learns(l);
  for (const int i : l.inputs) made.needs_gradient = made.needs_gradient || value(i).needs_gradient;
  if (l.output) {
    made.scale = state_.at<float>(l.output->scale);
    made.zero_point = state_.at<int32_t>(l.output->zero_point);
    made.lo = l.output->lo, made.hi = l.output->hi;
  } else {
    const Value& x = value(l.inputs.at(0));
    made.scale = x.scale, made.zero_point = x.zero_point;
    made.lo = x.lo, made.hi = x.hi;
  }
  return made;
}

void Builder::give_gradient(int index, const std::vector<Buffer>& buffers, const char* name,
                            std::function<void(const Run&, float* into)> write) {
  Value& v = value(index);
  if (!v.needs_gradient) return;
  const Buffer into = program_.make<float>(v.elements);
  std::vector<Buffer> all = buffers;
  all.push_back(into);
  program_.add(name, all, [=, write = std::move(write)](const Run& run) { write(run, run.at<float>(into)); });
  take_gradient(index, into);
}

void Builder::take_gradient(int index, Buffer gradient) {
  Value& v = value(index);
  if (!gradient) return;
  if (!v.gradient) {
    v.gradient = gradient;
    return;
  }
  program_.add("sums of gradients", {gradient, v.gradient}, [=, sum = v.gradient, n = v.elements](const Run& run) {
    add_values(run.at<float>(gradient), n, run.at<float>(sum), run.stream);
  });
}

void Builder::scale_gradient(const OutputQuantizer& quantizer, const double* sum) {
  program_.add("gradients of scales", {},
               [=, factor = quantizer.gradient_scale, into = shared_.gradient_of(quantizer.scale)](const Run& run) {
                 ops::cuda::scale_gradient(sum, factor, into, 1, run.stream);
               });
}

Builder::Backward Builder::input(int index, const float* images) {
  const Layer& l = layer(index);
  QAT_CHECK(l.output.has_value(), "{}: the network's input needs a quantizer", l.name);
  const Value& y = make_codes(index);
  const int64_t n = y.elements;
  if (l.output->follow) {
    double* ends = arena_.make<double>(2);
    const Buffer scratch = program_.make_bytes(values_range_scratch(n));
    program_.add(l.name, {scratch},
                 [=](const Run& run) { values_range(images, n, ends, run.at<void>(scratch), run.stream); });
    follow(l, ends, false);
  }
  program_.add(l.name, {y.codes}, [=](const Run& run) {
    encode(images, n, y.scale, y.range(), run.at<uint8_t>(y.codes), nullptr, run.stream);
  });
  if (!learns(l)) return nullptr;
  program_.keep(n * static_cast<int64_t>(sizeof(float)));  // the images
  return [=, this] {
    const Value made = value(index);
    const OutputQuantizer& quantizer = *layer(index).output;
    const Buffer scratch = program_.make_bytes(encode_scale_gradient_scratch(n));
    const Buffer codes = program_.make<uint8_t>(n), inside = program_.make<uint8_t>(mask_bytes(n));
    // Codes and mask are made again: nobody else needs the mask.
    program_.add(
        "gradients of scales", {made.gradient, codes, inside, scratch},
        [=, factor = quantizer.gradient_scale, into = shared_.gradient_of(quantizer.scale)](const Run& run) {
          encode(images, n, made.scale, made.range(), run.at<uint8_t>(codes), run.at<uint8_t>(inside), run.stream);
          encode_scale_gradient(run.at<float>(made.gradient), run.at<uint8_t>(codes), run.at<uint8_t>(inside), images,
                                made.scale, made.zero_point, n, factor, into, run.at<void>(scratch), run.stream);
        });
  };
}

void Builder::loss(const DeviceBatch& inputs) {
  Value& logits = value(network_.output);
  if (!logits.floats) {  // codes count by their real values
    logits.floats = program_.make<float>(logits.elements);
    program_.add("loss", {logits.codes, logits.floats}, [x = logits](const Run& run) {
      dequantize(run.at<uint8_t>(x.codes), x.elements, x.scale, x.zero_point, run.at<float>(x.floats), run.stream);
    });
  }
  const int64_t classes = logits.elements / batch_;
  logits.gradient = program_.make<float>(logits.elements);
  const Buffer scratch = program_.make_bytes(cross_entropy_scratch(batch_));
  const Targets targets{inputs.labels, inputs.others, &shared_.numbers->share, options_.label_smoothing};
  program_.add("loss", {logits.floats, logits.gradient, scratch},
               [=, batch = batch_, totals = shared_.totals, failed = shared_.failed](const Run& run) {
                 cross_entropy(run.at<float>(logits.floats), batch, classes, targets, run.at<float>(logits.gradient),
                               totals, failed, run.at<void>(scratch), run.stream);
               });
}

}  // namespace qat::device
