#include "core/device/builder.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/ops/cuda/encode.h"
#include "core/ops/cuda/follow.h"
#include "core/ops/cuda/pointwise.h"
#include "core/ops/cuda/pool.h"

namespace qat::device {

using namespace ops::cuda;  // NOLINT: the kernels, by the names of core/ops

namespace {

int64_t elements_of(const std::vector<int64_t>& sizes) {
  int64_t n = 1;
  for (const int64_t size : sizes) n *= size;
  return n;
}

int64_t mask_bytes(int64_t elements) { return (elements + 7) / 8; }

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
  std::vector<Backward> backward;
  backward.push_back(input(0, inputs.images));
  for (int i = 1; i < static_cast<int>(network_.layers.size()); ++i) backward.push_back(add_layer(i));
  loss(inputs);
  for (auto add = backward.rbegin(); add != backward.rend(); ++add) {
    if (*add) (*add)();
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
    case LayerKind::kFlatten:
      return flatten(index);
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
  range.rule = static_cast<FollowedRange::Rule>(f.rule);
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

Builder::Value& Builder::make_codes(int index) {
  const Layer& l = layer(index);
  Value& made = value(index);
  made.elements = batch_ * elements_of(l.sizes);
  made.codes = program_.make<uint8_t>(made.elements);
  made.needs_gradient = l.kind == LayerKind::kConvolution;
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
  const bool adds = static_cast<bool>(v.gradient);
  const Buffer into = program_.make<float>(v.elements);
  std::vector<Buffer> all = buffers;
  all.push_back(into);
  program_.add(name, all, [=, write = std::move(write)](const Run& run) { write(run, run.at<float>(into)); });
  if (!adds) {
    v.gradient = into;
    return;
  }
  program_.add("sums of gradients", {into, v.gradient}, [=, sum = v.gradient, n = v.elements](const Run& run) {
    add_values(run.at<float>(into), n, run.at<float>(sum), run.stream);
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
  const bool learns = l.output->learns && shared_.gradient_of(l.output->scale) != nullptr;
  make_codes(index).needs_gradient = learns;
  const Value& y = value(index);
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
  if (!learns) return nullptr;
  return [=, this] {
    const Value made = value(index);
    if (!made.gradient) return;
    double* sum = arena_.make<double>(1);
    const Buffer scratch = program_.make_bytes(encode_scale_gradient_scratch(n));
    const Buffer codes = program_.make<uint8_t>(n), inside = program_.make<uint8_t>(mask_bytes(n));
    // Codes and mask are made again: nobody else needs the mask.
    program_.add("gradients of scales", {made.gradient, codes, inside, scratch}, [=](const Run& run) {
      encode(images, n, made.scale, made.range(), run.at<uint8_t>(codes), run.at<uint8_t>(inside), run.stream);
      encode_scale_gradient(run.at<float>(made.gradient), run.at<uint8_t>(codes), run.at<uint8_t>(inside), images,
                            made.scale, made.zero_point, n, sum, run.at<void>(scratch), run.stream);
    });
    scale_gradient(*layer(index).output, sum);
  };
}

bool Builder::shares_gradient(int addition, int only, int other) const {
  if (only == other || readers_[static_cast<size_t>(only)].size() != 1) return false;
  const auto& readers = readers_[static_cast<size_t>(other)];
  return std::all_of(readers.begin(), readers.end(), [&](int reader) { return reader == addition || reader < only; });
}

Builder::Backward Builder::addition(int index) {
  const Layer& l = layer(index);
  const int ia = l.inputs.at(0), ib = l.inputs.at(1);
  const Value a = value(ia), b = value(ib);
  const Value& y = make_codes(index);
  const int64_t n = y.elements;
  const ops::cuda::BinaryParams params{a.scale, b.scale, y.scale, a.zero_point, b.zero_point, y.range()};
  if (l.output->follow) {
    double* ends = arena_.make<double>(2);
    const Buffer scratch = program_.make_bytes(add_range_scratch(n));
    program_.add(l.name, {a.codes, b.codes, scratch}, [=](const Run& run) {
      add_range(run.at<uint8_t>(a.codes), run.at<uint8_t>(b.codes), n, params, ends, run.at<void>(scratch), run.stream);
    });
    follow(l, ends, l.relu);
  }
  const Buffer inside = program_.make<uint8_t>(mask_bytes(n));
  program_.add(l.name, {a.codes, b.codes, y.codes, inside}, [=, relu = l.relu](const Run& run) {
    add(run.at<uint8_t>(a.codes), run.at<uint8_t>(b.codes), n, params, run.at<uint8_t>(y.codes),
        run.at<uint8_t>(inside), relu, run.stream);
  });
  return [=, this] {
    const Value made = value(index);
    const Layer& adds = layer(index);
    if (adds.output->learns && shared_.gradient_of(adds.output->scale) != nullptr) {
      double* sum = arena_.make<double>(1);
      const Buffer scratch = program_.make_bytes(add_scale_gradient_scratch(n));
      program_.add("gradients of scales", {made.gradient, a.codes, b.codes, made.codes, inside, scratch},
                   [=](const Run& run) {
                     add_scale_gradient(run.at<float>(made.gradient), run.at<uint8_t>(a.codes),
                                        run.at<uint8_t>(b.codes), run.at<uint8_t>(made.codes), run.at<uint8_t>(inside),
                                        n, params, sum, run.at<void>(scratch), run.stream);
                   });
      scale_gradient(*adds.output, sum);
    }
    const auto mask = [=](const Run& run, float* into) {
      mask_gradient(run.at<float>(made.gradient), run.at<uint8_t>(inside), n, into, run.stream);
    };
    const auto give = [&](int to) { give_gradient(to, {made.gradient, inside}, "gradients of adds", mask); };
    Value &va = value(ia), &vb = value(ib);
    if (!va.gradient && !vb.gradient && va.needs_gradient && vb.needs_gradient &&
        (shares_gradient(index, ia, ib) || shares_gradient(index, ib, ia))) {
      give(ia);
      vb.gradient = va.gradient;
      return;
    }
    give(ia);
    give(ib);
  };
}

Builder::Backward Builder::relu(int index) {
  const Layer& l = layer(index);
  const int from = l.inputs.at(0);
  const Value x = value(from);
  const Value& y = make_codes(index);
  const Buffer inside = program_.make<uint8_t>(mask_bytes(y.elements));
  program_.add(l.name, {x.codes, y.codes, inside}, [=](const Run& run) {
    ops::cuda::relu(run.at<uint8_t>(x.codes), y.elements, x.zero_point, run.at<uint8_t>(y.codes),
                    run.at<uint8_t>(inside), run.stream);
  });
  return [=, this] {
    const Value made = value(index);
    give_gradient(from, {made.gradient, inside}, "gradients of activations", [=](const Run& run, float* into) {
      mask_gradient(run.at<float>(made.gradient), run.at<uint8_t>(inside), made.elements, into, run.stream);
    });
  };
}

Builder::Backward Builder::max_pool(int index) {
  const Layer& l = layer(index);
  const int from = l.inputs.at(0);
  const Value x = value(from);
  const Value& y = make_codes(index);
  ops::PoolGeometry g = l.pool;
  g.batch = batch_;
  const Buffer winner = program_.make<uint16_t>(y.elements);
  program_.add(l.name, {x.codes, y.codes, winner}, [=](const Run& run) {
    ops::cuda::max_pool(g, run.at<uint8_t>(x.codes), run.at<uint8_t>(y.codes), run.at<uint16_t>(winner), run.stream);
  });
  return [=, this] {
    const Value made = value(index);
    give_gradient(from, {made.gradient, winner}, "gradients of pools", [=](const Run& run, float* into) {
      max_pool_gradient(g, run.at<float>(made.gradient), run.at<uint16_t>(winner), into, run.stream);
    });
  };
}

Builder::Backward Builder::global_average_pool(int index) {
  const Layer& l = layer(index);
  const int from = l.inputs.at(0);
  const Value x = value(from);
  const Value& y = make_codes(index);
  const int64_t channels = l.sizes.at(0), pixels = x.elements / (batch_ * channels), batch = batch_;
  const Buffer acc = program_.make<int32_t>(y.elements), inside = program_.make<uint8_t>(mask_bytes(y.elements));
  program_.add(l.name, {x.codes, acc}, [=](const Run& run) {
    global_average_sums(run.at<uint8_t>(x.codes), batch, pixels, channels, x.zero_point, run.at<int32_t>(acc),
                        run.stream);
  });
  if (l.output->follow) {
    double* ends = arena_.make<double>(2);
    program_.add(l.name, {acc}, [=](const Run& run) {
      global_average_range(run.at<int32_t>(acc), batch, pixels, channels, x.scale, ends, run.stream);
    });
    follow(l, ends, false);
  }
  program_.add(l.name, {acc, y.codes, inside}, [=](const Run& run) {
    global_average_codes(run.at<int32_t>(acc), batch, pixels, channels, x.scale, y.scale, y.range(),
                         run.at<uint8_t>(y.codes), run.at<uint8_t>(inside), run.stream);
  });
  return [=, this] {
    const Value made = value(index);
    const OutputQuantizer& output = *layer(index).output;
    if (output.learns && shared_.gradient_of(output.scale) != nullptr) {
      double* sum = arena_.make<double>(1);
      program_.add("gradients of scales", {made.gradient, acc, made.codes, inside}, [=](const Run& run) {
        global_average_scale_gradient(run.at<float>(made.gradient), run.at<int32_t>(acc), run.at<uint8_t>(made.codes),
                                      run.at<uint8_t>(inside), batch, pixels, channels, x.scale, made.scale,
                                      made.range(), sum, run.stream);
      });
      scale_gradient(output, sum);
    }
    give_gradient(from, {made.gradient, inside}, "gradients of pools", [=](const Run& run, float* into) {
      global_average_pool_gradient(run.at<float>(made.gradient), run.at<uint8_t>(inside), batch, pixels, channels, into,
                                   run.stream);
    });
  };
}

Builder::Backward Builder::flatten(int index) {
  const Layer& l = layer(index);
  const int from = l.inputs.at(0);
  const Value x = value(from);
  const Value& y = make_codes(index);
  const int64_t channels = layer(from).sizes.at(0), pixels = y.elements / (batch_ * channels), batch = batch_;
  // To the order of the float network; of one pixel, or of rows, it is a copy.
  program_.add(l.name, {x.codes, y.codes}, [=](const Run& run) {
    to_channels_first(run.at<uint8_t>(x.codes), batch, pixels, channels, run.at<uint8_t>(y.codes), run.stream);
  });
  return [=, this] {
    const Value made = value(index);
    give_gradient(from, {made.gradient}, "gradients of moves", [=](const Run& run, float* into) {
      to_channels_last(run.at<float>(made.gradient), batch, pixels, channels, into, run.stream);
    });
  };
}

Builder::Backward Builder::dropout(int index) {
  const Layer& l = layer(index);
  const int from = l.inputs.at(0);
  const Value x = value(from);
  Value& y = make_codes(index);
  float* scale = arena_.make<float>(1);
  y.scale = scale;
  const Buffer kept = program_.make<uint8_t>(mask_bytes(y.elements));
  const int64_t repeats = l.drops_samples ? y.elements / batch_ : 1;
  program_.add(l.name, {x.codes, y.codes, kept}, [=, p = l.dropout, key = shared_.keys + index](const Run& run) {
    ops::cuda::dropout(run.at<uint8_t>(x.codes), y.elements, repeats, p, key, x.scale, x.zero_point,
                       run.at<uint8_t>(y.codes), run.at<uint8_t>(kept), scale, run.stream);
  });
  return [=, this] {
    const Value made = value(index);
    give_gradient(from, {made.gradient, kept}, "gradients of dropouts",
                  [=, p = layer(index).dropout](const Run& run, float* into) {
                    dropout_gradient(run.at<float>(made.gradient), run.at<uint8_t>(kept), made.elements, p, into,
                                     run.stream);
                  });
  };
}

void Builder::loss(const DeviceBatch& inputs) {
  Value& logits = value(network_.output);
  QAT_CHECK(static_cast<bool>(logits.floats), "{}: the network's output must be float values",
            layer(network_.output).name);
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
