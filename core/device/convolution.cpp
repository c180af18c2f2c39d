// Convolutions and linear layers with all that is fused to them: the forms of core/autograd/conv.cpp.
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/device/builder.h"
#include "core/ops/cuda/convolve.h"
#include "core/ops/cuda/reduce_gradient.h"
#include "core/ops/cuda/weight_codes.h"

namespace qat::device {

using namespace ops::cuda;  // NOLINT: the kernels, by the names of core/ops

namespace {

ops::cuda::BatchNorm batch_norm_of(const Layer& layer, State& state) {
  ops::cuda::BatchNorm norm;
  if (!layer.batch_norm) return norm;
  norm.gamma = state.at<float>(layer.batch_norm->gamma);
  norm.beta = state.at<float>(layer.batch_norm->beta);
  norm.running_mean = state.at<float>(layer.batch_norm->running_mean);
  norm.running_var = state.at<float>(layer.batch_norm->running_var);
  norm.eps = layer.batch_norm->eps, norm.momentum = layer.batch_norm->momentum;
  return norm;
}

}  // namespace

void Builder::make_weights() {
  std::vector<EncodedWeight> list;
  int32_t channels = 0;
  std::vector<Weight> weights(network_.layers.size());
  for (size_t i = 0; i < network_.layers.size(); ++i) {
    const Layer& l = network_.layers[i];
    if (l.kind != LayerKind::kConvolution) continue;
    const WeightQuantizer& q = l.weight_quantizer;
    Weight& w = weights[i];
    w.channels = l.geometry.out_c, w.depth = l.geometry.depth();
    QAT_CHECK(w.channels % q.scales == 0, "{}: {} scales do not divide {} channels", l.name, q.scales, w.channels);
    w.parameter = state_.at<float>(l.weight);
    w.values = w.parameter;
    if (l.gain_in_codes) {
      w.gain = arena_.make<double>(w.channels);
      w.values = w.product = arena_.make<float>(w.channels * w.depth);
    }
    w.codes = arena_.make<int8_t>(w.channels * w.depth);
    float* scale = state_.at<float>(q.scale);
    float* repeated = q.scales == w.channels ? nullptr : arena_.make<float>(w.channels);
    w.scale = repeated == nullptr ? scale : repeated;
    list.push_back({w.values, w.codes, scale, repeated, w.depth, static_cast<int32_t>(w.channels),
                    static_cast<int32_t>(q.scales), q.lo, q.hi, q.follows && repeated == nullptr, channels});
    channels += static_cast<int32_t>(w.channels);
  }
  shared_.encoded = arena_.make(list);
  shared_.weights = std::move(weights);  // nothing is there after a failure
  shared_.encoded_weights = std::ssize(list), shared_.encoded_channels = channels;
}

void Builder::encode_weights() {
  if (shared_.weights.empty()) make_weights();
  for (size_t i = 0; i < network_.layers.size(); ++i) {
    const Layer& l = network_.layers[i];
    if (l.kind != LayerKind::kConvolution) continue;
    const WeightQuantizer& q = l.weight_quantizer;
    const Weight& w = shared_.weights[i];
    const int64_t n = w.channels * w.depth;
    program_.keep(n);
    if (l.gain_in_codes) {
      program_.keep(n * static_cast<int64_t>(sizeof(float)));
      program_.add(l.name, {}, [=, norm = batch_norm_of(l, state_)](const Run& run) {
        running_gain(norm, w.channels, w.gain, run.stream);
        scale_rows(w.parameter, w.channels, w.depth, w.gain, w.product, run.stream);
      });
    }
    if (q.follows && q.scales != w.channels) {
      program_.add(l.name, {}, [=, scale = state_.at<float>(q.scale), failed = shared_.failed](const Run& run) {
        largest_scales(w.values, q.scales, n / q.scales, q.hi, scale, failed, run.stream);
      });
    }
  }
  program_.add("weights", {},
               [list = shared_.encoded, count = shared_.encoded_weights, channels = shared_.encoded_channels,
                failed = shared_.failed](const Run& run) {
                 ops::cuda::encode_weights(list, count, channels, failed, run.stream);
               });
}

void Builder::convolve(const Convolution& c) {
  const Value x = value(c.input);
  program_.add(c.layer->name, {x.codes, c.folded_codes, c.acc}, [=, acc = c.acc, sums = c.sums](const Run& run) {
    ops::cuda::convolve(c.geometry, run.at<uint8_t>(x.codes), x.zero_point, c.codes(run), run.at<int32_t>(acc), sums,
                        run.stream);
  });
}

bool Builder::measures(const Layer& layer) const {
  const bool live = layer.live && layer.batch_norm, follows = layer.output && layer.output->follow;
  return live || follows || (learns(layer) && options_.memory == Memory::kCompact);
}

void Builder::clear_sums() {
  int64_t channels = 0;
  for (const Layer& layer : network_.layers) {
    if (layer.kind == LayerKind::kConvolution && measures(layer)) channels += layer.geometry.out_c;
  }
  if (channels == 0) return;
  const int64_t words = channels * ChannelSums::kWords;
  sums_ = arena_.make<unsigned long long>(words);
  program_.add("statistics", {}, [sums = sums_, bytes = static_cast<size_t>(words) * sizeof(*sums_)](const Run& run) {
    check(cudaMemsetAsync(sums, 0, bytes, run.stream), "clearing statistics");
  });
}

Builder::Backward Builder::convolution(int index) {
  const Layer& l = layer(index);
  Convolution c;
  c.layer = &l;
  c.input = l.inputs.at(0), c.output = index;
  c.geometry = l.geometry;
  c.geometry.batch = batch_;
  c.rows = c.geometry.rows(), c.channels = c.geometry.out_c;
  c.live = l.live && l.batch_norm;
  QAT_CHECK(!c.live || c.rows > 1, "{}: batch norm needs more than one value per channel to train", l.name);
  c.learns = learns(l);
  c.keeps = c.live || c.learns;
  if (l.output) {
    make_codes(index);
    c.inside = program_.make<uint8_t>((c.rows * c.channels + 7) / 8);
  } else {
    Value& y = value(index);
    y.elements = c.rows * c.channels;
    y.floats = program_.make<float>(y.elements);
    y.needs_gradient = true;
    QAT_CHECK(!c.live, "{}: batch norm without an output quantizer does not train on a GPU", l.name);
  }
  c.weight = shared_.weights[static_cast<size_t>(index)];
  c.acc = program_.make<int32_t>(c.rows * c.channels);
  if (measures(l)) c.sums = {std::exchange(sums_, sums_ + c.channels * ChannelSums::kWords), c.channels};
  c.multiplier = arena_.make<float>(c.channels), c.offset = arena_.make<float>(c.channels);
  if (c.keeps && options_.memory == Memory::kCompact) {
    c.compact = {arena_.make<int32_t>(c.channels), arena_.make<float>(c.channels), arena_.make<float>(c.channels)};
    c.kept = program_.make<int16_t>(c.rows * c.channels);
  }
  if (c.live) {
    live_forward(c);
  } else {
    folded_forward(c);
  }
  return [=, this] { backward(c); };
}

void Builder::live_forward(Convolution& c) {
  const Layer& l = *c.layer;
  const Value x = value(c.input), y = value(c.output);
  c.numbers.p = arena_.make<double>(c.channels), c.numbers.q = arena_.make<double>(c.channels);
  c.numbers.gain = arena_.make<double>(c.channels), c.numbers.weight_factor = arena_.make<double>(c.channels);
  c.numbers.multiplier = c.multiplier, c.numbers.offset = c.offset;
  c.numbers.scale_ran = arena_.make<float>(c.channels);
  c.scale_ran = c.numbers.scale_ran, c.weight_factor = c.numbers.weight_factor;
  convolve(c);
  LiveLayer live{c.rows,
                 c.channels,
                 c.sums,
                 x.scale,
                 c.weight.scale,
                 c.weight.gain,
                 state_.at<float>(l.bias),
                 batch_norm_of(l, state_),
                 l.batch_norm->running_statistics};
  program_.add(l.name, {},
               [=, range = followed(l), numbers = c.numbers, compact = c.compact, relu = l.relu,
                failed = shared_.failed](const Run& run) {
                 live_layer(live, {y.scale, range ? &*range : nullptr, relu}, numbers, compact, failed, run.stream);
               });
  program_.add(l.name, {c.acc, y.codes, c.inside, c.kept}, [=, relu = l.relu](const Run& run) {
    requantize_affine(run.at<int32_t>(c.acc), c.rows, c.channels, c.multiplier, c.offset, y.range(),
                      run.at<uint8_t>(y.codes), run.at<uint8_t>(c.inside), relu,
                      {c.compact.middle, c.compact.gain, run.at<int16_t>(c.kept)}, run.stream);
  });
}

void Builder::folded_forward(Convolution& c) {
  const Layer& l = *c.layer;
  const Value x = value(c.input), y = value(c.output);
  c.folded_codes = program_.make<int8_t>(c.weight.channels * c.weight.depth);
  c.folded = {nullptr, arena_.make<float>(c.channels), arena_.make<int32_t>(c.channels),
              arena_.make<double>(c.channels)};
  c.scale_ran = c.folded.scale;
  if (l.batch_norm && !l.gain_in_codes) c.weight_factor = c.folded.k;
  FoldedLayer layer{c.channels,     c.weight.depth,  c.weight.codes,           x.scale,
                    c.weight.scale, l.gain_in_codes, state_.at<float>(l.bias), batch_norm_of(l, state_)};
  program_.add(l.name, {c.folded_codes}, [=, folded = c.folded, failed = shared_.failed](const Run& run) {
    FoldedNumbers out = folded;
    out.codes = run.at<int8_t>(c.folded_codes);
    fold(layer, out, failed, run.stream);
  });
  convolve(c);
  const std::optional<FollowedRange> range = followed(l);
  program_.add(l.name, {}, [=, relu = l.relu, failed = shared_.failed](const Run& run) {
    folded_multipliers(c.channels, c.sums, x.scale, c.folded, {y.scale, range ? &*range : nullptr, relu}, c.multiplier,
                       c.offset, c.compact, failed, run.stream);
  });
  program_.add(l.name, {c.acc, y.codes, y.floats, c.inside, c.kept}, [=, relu = l.relu](const Run& run) {
    const int32_t* acc = run.at<int32_t>(c.acc);
    if (c.kept) {
      compact(acc, c.rows, c.channels, {c.compact.middle, c.compact.gain, run.at<int16_t>(c.kept)}, run.stream);
    }
    if (y.floats) {
      dequantize_accumulators(acc, c.rows, c.channels, c.folded.bias, c.multiplier, run.at<float>(y.floats),
                              run.stream);
    } else {
      requantize(acc, c.rows, c.channels, c.folded.bias, c.multiplier, y.range(), run.at<uint8_t>(y.codes),
                 run.at<uint8_t>(c.inside), relu, run.stream);
    }
  });
}

void Builder::backward(const Convolution& c) {
  const Layer& l = *c.layer;
  const Value y = value(c.output);
  const Buffer g = y.gradient;
  float* dbias = l.bias ? shared_.gradient_of(l.bias) : nullptr;
  float *dgamma = nullptr, *dbeta = nullptr;
  if (l.batch_norm) {
    dgamma = shared_.gradient_of(l.batch_norm->gamma);
    dbeta = shared_.gradient_of(l.batch_norm->beta);
  }
  Buffer acc = c.acc;
  if (c.keeps && options_.memory == Memory::kRecompute) {
    Convolution again = c;
    again.acc = acc = program_.make<int32_t>(c.rows * c.channels);
    again.sums = {};  // counted already
    convolve(again);
  }
  const bool exact = c.keeps && !c.kept;
  const Buffer kept = exact ? acc : c.kept;
  const auto kept_of = [=, compact = c.compact](const Run& run) {
    KeptAccumulators result;
    if (exact) result.exact = run.at<int32_t>(kept);
    if (!exact && kept) {
      result.compact = run.at<int16_t>(kept);
      result.middle = compact.middle, result.step = compact.step;
    }
    return result;
  };

  LayerFactors factors{
      .k = c.folded.k, .scale_x = value(c.input).scale, .weight_factor = c.weight_factor, .scale_ran = c.scale_ran};
  LayerGradients gradients{.dbeta = dbeta, .dbias = dbias, .weight_factor = arena_.make<float>(c.channels)};
  if (c.live) {
    factors.p = c.numbers.p, factors.q = c.numbers.q, factors.gain = c.numbers.gain;
    factors.running_statistics = l.batch_norm->running_statistics;
    gradients.a = arena_.make<float>(c.channels), gradients.b = arena_.make<float>(c.channels);
    gradients.c = arena_.make<float>(c.channels), gradients.dgamma = dgamma;
  }
  ScaleGradient scale;
  if (c.learns) {
    scale = {.multiplier = c.multiplier,
             .offset = c.offset,
             .zero_point = y.zero_point,
             .factor = l.output->gradient_scale,
             .gradient = shared_.gradient_of(l.output->scale)};
  }
  const Buffer codes = c.learns ? y.codes : Buffer();
  const Buffer scratch = program_.make_bytes(reduce_gradient_scratch(c.rows, c.channels));
  int32_t* arrived = arena_.make<int32_t>(reduce_gradient_counters(c.channels));
  program_.add("sums of gradients", {g, c.inside, kept, codes, scratch}, [=](const Run& run) {
    ScaleGradient of_codes = scale;
    of_codes.codes = run.at<uint8_t>(codes);
    reduce_gradient({c.rows, c.channels, run.at<float>(g), run.at<uint8_t>(c.inside), kept_of(run)}, factors, gradients,
                    of_codes, {run.at<void>(scratch), arrived}, run.stream);
  });

  const auto dy = [=, live = c.live](const Run& run) {
    ProductGradient result{.g = run.at<float>(g), .inside = run.at<uint8_t>(c.inside)};
    if (!live) return result;
    result.slope = gradients.a, result.inner = gradients.b, result.constant = gradients.c;
    result.kept = kept_of(run);
    return result;
  };
  gradients_of_products(c, {g, c.inside, c.live ? kept : Buffer()}, dy, gradients.weight_factor);
}

void Builder::gradients_of_products(const Convolution& c, std::vector<Buffer> buffers,
                                    const std::function<ProductGradient(const Run&)>& dy, const float* factor) {
  const GradientPrecision precision = options_.bfloat16 ? GradientPrecision::kBfloat16 : GradientPrecision::kFloat;
  const ops::ConvGeometry g = c.geometry;
  const Buffer operand = program_.make_bytes(gradient_operand_bytes(g, precision));
  buffers.push_back(operand);
  const Value x = value(c.input);
  program_.add("gradients as operands", buffers, [=](const Run& run) {
    gradient_operand(g, precision, dy(run), c.scale_ran, run.at<void>(operand), run.stream);
  });
  if (shared_.gradient_of(c.layer->weight) != nullptr || c.layer->weight_quantizer.learns) {
    weight_gradient(c, operand, factor);
  }
  if (x.needs_gradient) {
    const Buffer scratch = program_.make_bytes(input_gradient_scratch(g, precision));
    const bool adds = static_cast<bool>(x.gradient);
    const Buffer dx = adds ? x.gradient : program_.make<float>(x.elements);
    value(c.input).gradient = dx;
    program_.add("gradients of inputs", {operand, c.folded_codes, dx, scratch}, [=](const Run& run) {
      input_gradient(g, precision, run.at<void>(operand), c.codes(run), adds, run.at<float>(dx), run.at<void>(scratch),
                     run.stream);
    });
  }
}

void Builder::weight_gradient(const Convolution& c, Buffer operand, const float* factor) {
  const GradientPrecision precision = options_.bfloat16 ? GradientPrecision::kBfloat16 : GradientPrecision::kFloat;
  const ops::ConvGeometry g = c.geometry;
  const Value x = value(c.input);
  const Weight& w = c.weight;
  const WeightQuantizer& q = c.layer->weight_quantizer;
  // The parameter's gradient, or one that nobody reads: the scale's may be wanted alone.
  float* dw = shared_.gradient_of(c.layer->weight);
  if (dw == nullptr) dw = arena_.make<float>(w.channels * w.depth);
  const int64_t scales = q.scales, depth = w.depth * (w.channels / scales);
  float* dscale = q.learns ? shared_.gradient_of(q.scale) : nullptr;
  double* sums = dscale == nullptr ? nullptr : arena_.make<double>(scales);
  const Buffer scratch = program_.make_bytes(weight_gradient_scratch(g, precision));
  // Nobody waits for them but the optimizer.
  program_.add_aside(
      "gradients of weights", {x.codes, operand, scratch}, [=, scale = state_.at<float>(q.scale)](const Run& run) {
        ops::cuda::weight_gradient(g, precision, run.at<uint8_t>(x.codes), x.zero_point, run.at<void>(operand), factor,
                                   dw, run.at<void>(scratch), run.stream);
        if (!q.follows) {  // otherwise every weight is inside the range of the largest one
          encode_weights_gradient(w.values, dw, scales, depth, scale, q.lo, q.hi, false, dw, sums, run.stream);
          if (dscale != nullptr) ops::cuda::scale_gradient(sums, q.gradient_scale, dscale, scales, run.stream);
        }
        if (w.gain != nullptr) scale_rows(dw, w.channels, w.depth, w.gain, dw, run.stream);
      });
}

}  // namespace qat::device
