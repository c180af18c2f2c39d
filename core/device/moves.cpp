// Layers that move codes without changing them.
#include "core/device/builder.h"
#include "core/ops/cuda/move.h"
#include "core/ops/cuda/pointwise.h"

namespace qat::device {

using namespace ops::cuda;  // NOLINT: the kernels, by the names of core/ops

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

Builder::Backward Builder::move_channels(int index) {
  const Layer& l = layer(index);
  const int from = l.inputs.at(0);
  const Value x = value(from);
  const Value& y = make_codes(index);
  const int64_t x_channels = layer(from).sizes.at(0), y_channels = l.sizes.at(0), pixels = y.elements / y_channels;
  std::vector<int32_t> back(static_cast<size_t>(x_channels), -1);
  for (size_t c = 0; c < l.channels_from.size(); ++c) {
    back[static_cast<size_t>(l.channels_from[c])] = static_cast<int32_t>(c);
  }
  const int32_t *there = arena_.make(l.channels_from), *back_again = arena_.make(back);
  program_.add(l.name, {x.codes, y.codes}, [=](const Run& run) {
    gather_channels(run.at<uint8_t>(x.codes), pixels, x_channels, there, y_channels, run.at<uint8_t>(y.codes),
                    run.stream);
  });
  return [=, this] {
    const Value made = value(index);
    give_gradient(from, {made.gradient}, "gradients of moves", [=](const Run& run, float* into) {
      gather_channels(run.at<float>(made.gradient), pixels, y_channels, back_again, x_channels, into, run.stream);
    });
  };
}

}  // namespace qat::device
