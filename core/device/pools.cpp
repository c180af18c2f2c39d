#include "core/device/builder.h"
#include "core/ops/cuda/pool.h"

namespace qat::device {

using namespace ops::cuda;  // NOLINT: the kernels, by the names of core/ops

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
    if (learns(layer(index))) {
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

Builder::Backward Builder::average_pool(int index) {
  const Layer& l = layer(index);
  const int from = l.inputs.at(0);
  const Value x = value(from);
  const Value& y = make_codes(index);
  ops::PoolGeometry g = l.pool;
  g.batch = batch_;
  const bool include_pad = l.count_include_pad;
  const Buffer inside = program_.make<uint8_t>(mask_bytes(y.elements));
  if (l.output->follow) {
    double* ends = arena_.make<double>(2);
    const Buffer scratch = program_.make_bytes(average_scratch(g));
    program_.add(l.name, {x.codes, scratch}, [=](const Run& run) {
      average_range(g, include_pad, run.at<uint8_t>(x.codes), x.scale, x.zero_point, ends, run.at<void>(scratch),
                    run.stream);
    });
    follow(l, ends, false);
  }
  program_.add(l.name, {x.codes, y.codes, inside}, [=](const Run& run) {
    ops::cuda::average_pool(g, include_pad, run.at<uint8_t>(x.codes), x.scale, x.zero_point, y.scale, y.range(),
                            run.at<uint8_t>(y.codes), run.at<uint8_t>(inside), run.stream);
  });
  return [=, this] {
    const Value made = value(index);
    const Layer& pool = layer(index);
    if (learns(pool)) {
      double* sum = arena_.make<double>(1);
      const Buffer scratch = program_.make_bytes(average_scratch(g));
      program_.add("gradients of scales", {made.gradient, x.codes, made.codes, inside, scratch}, [=](const Run& run) {
        average_scale_gradient(g, include_pad, run.at<float>(made.gradient), run.at<uint8_t>(x.codes),
                               run.at<uint8_t>(made.codes), run.at<uint8_t>(inside), x.scale, x.zero_point, made.scale,
                               made.range(), sum, run.at<void>(scratch), run.stream);
      });
      scale_gradient(*pool.output, sum);
    }
    give_gradient(from, {made.gradient, inside}, "gradients of pools", [=](const Run& run, float* into) {
      average_pool_gradient(g, include_pad, run.at<float>(made.gradient), run.at<uint8_t>(inside), into, run.stream);
    });
  };
}

}  // namespace qat::device
