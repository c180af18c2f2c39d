// Element-wise layers: additions, products, activations, dropout, and tables of codes along channels.
#include "core/ops/cuda/pointwise.h"

#include <algorithm>

#include "core/device/builder.h"
#include "core/ops/cuda/table.h"

namespace qat::device {

using namespace ops::cuda;  // NOLINT: the kernels, by the names of core/ops

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
    if (learns(adds)) {
      const Buffer scratch = program_.make_bytes(add_scale_gradient_scratch(n));
      program_.add(
          "gradients of scales", {made.gradient, a.codes, b.codes, made.codes, inside, scratch},
          [=, factor = adds.output->gradient_scale, into = shared_.gradient_of(adds.output->scale)](const Run& run) {
            add_scale_gradient(run.at<float>(made.gradient), run.at<uint8_t>(a.codes), run.at<uint8_t>(b.codes),
                               run.at<uint8_t>(made.codes), run.at<uint8_t>(inside), n, params, factor, into,
                               run.at<void>(scratch), run.stream);
          });
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

Builder::Backward Builder::multiplication(int index) {
  const Layer& l = layer(index);
  const int ia = l.inputs.at(0), ib = l.inputs.at(1);
  const Value a = value(ia), b = value(ib);
  const Value& y = make_codes(index);
  const bool spread = a.elements != b.elements;
  const int64_t batch = batch_, channels = l.sizes.at(0), pixels = y.elements / (batch * channels);
  const ops::cuda::BinaryParams params{a.scale, b.scale, y.scale, a.zero_point, b.zero_point, y.range()};
  if (l.output->follow) {
    double* ends = arena_.make<double>(2);
    const Buffer scratch = program_.make_bytes(mul_range_scratch(batch, pixels, channels));
    program_.add(l.name, {a.codes, b.codes, scratch}, [=](const Run& run) {
      mul_range(run.at<uint8_t>(a.codes), run.at<uint8_t>(b.codes), batch, pixels, channels, spread, params, ends,
                run.at<void>(scratch), run.stream);
    });
    follow(l, ends, false);
  }
  program_.add(l.name, {a.codes, b.codes, y.codes}, [=](const Run& run) {
    const uint8_t *left = run.at<uint8_t>(a.codes), *right = run.at<uint8_t>(b.codes);
    uint8_t* product = run.at<uint8_t>(y.codes);
    if (spread) {
      mul_broadcast(left, right, batch, pixels, channels, params, product, run.stream);
    } else {
      mul(left, right, y.elements, params, product, run.stream);
    }
  });
  return [=, this] {
    const Value made = value(index);
    const Layer& multiplies = layer(index);
    // Both gradients and the scale's come from one pass; a's and b's are added to what other readers gave.
    const Buffer da = value(ia).needs_gradient ? program_.make<float>(a.elements) : Buffer();
    const Buffer db = value(ib).needs_gradient ? program_.make<float>(b.elements) : Buffer();
    double* sum = learns(multiplies) ? arena_.make<double>(1) : nullptr;
    const Buffer scratch = program_.make_bytes(mul_gradient_scratch(batch, pixels, channels, spread));
    program_.add("gradients of products", {made.gradient, a.codes, b.codes, made.codes, da, db, scratch},
                 [=](const Run& run) {
                   mul_gradient(run.at<float>(made.gradient), run.at<uint8_t>(a.codes), run.at<uint8_t>(b.codes), batch,
                                pixels, channels, spread, params, run.at<float>(da), run.at<float>(db),
                                run.at<uint8_t>(made.codes), sum, run.at<void>(scratch), run.stream);
                 });
    if (sum != nullptr) scale_gradient(*multiplies.output, sum);
    take_gradient(ia, da);
    take_gradient(ib, db);
  };
}

static_assert(static_cast<int>(Function::kLeakyRelu) == static_cast<int>(ops::cuda::Function::kLeakyRelu) &&
              static_cast<int>(Function::kHardsigmoid) == static_cast<int>(ops::cuda::Function::kHardsigmoid) &&
              static_cast<int>(Function::kHardswish) == static_cast<int>(ops::cuda::Function::kHardswish));

Builder::Backward Builder::tables(int index) {
  const Layer& l = layer(index);
  const Value y = make_codes(index);
  const int64_t y_channels = l.sizes.at(0), pixels = y.elements / y_channels;
  struct Part {
    int from = 0;
    int64_t channels = 0, begin = 0;
    TableParams params;
    uint8_t* table = nullptr;
    Slopes* slopes = nullptr;
  };
  std::vector<Part> parts;
  int64_t begin = 0;
  for (const int from : l.inputs) {
    const Value& x = value(from);
    Part part{from, layer(from).sizes.at(0), begin, {}, arena_.make<uint8_t>(256), arena_.make<Slopes>(1)};
    part.params = {static_cast<ops::cuda::Function>(l.function), l.slope, x.scale, x.zero_point, y.scale, y.range()};
    begin += part.channels;
    parts.push_back(part);
  }
  if (l.output->follow) {
    double* ends = arena_.make<double>(2);
    const Buffer scratch = program_.make_bytes(table_range_scratch());
    for (const Part& part : parts) {
      const Value& x = value(part.from);
      program_.add(l.name, {x.codes, scratch}, [=, joins = part.begin > 0](const Run& run) {
        table_range(run.at<uint8_t>(x.codes), x.elements, part.params, ends, joins, run.at<void>(scratch), run.stream);
      });
    }
    follow(l, ends, false);
  }
  for (const Part& part : parts) {
    const Value& x = value(part.from);
    program_.add(l.name, {x.codes, y.codes}, [=](const Run& run) {
      make_table(part.params, part.table, part.slopes, run.stream);
      lookup_channels(run.at<uint8_t>(x.codes), pixels, part.channels, part.table, run.at<uint8_t>(y.codes), y_channels,
                      part.begin, run.stream);
    });
  }
  return [=, this] {
    const Value made = value(index);
    double* sum = learns(layer(index)) ? arena_.make<double>(1) : nullptr;
    for (const Part& part : parts) {
      const Value& x = value(part.from);
      const Buffer dx = x.needs_gradient ? program_.make<float>(x.elements) : Buffer();
      const Buffer scratch = program_.make_bytes(table_gradient_scratch(pixels, part.channels));
      program_.add("gradients of tables", {made.gradient, x.codes, dx, scratch},
                   [=, codes = x.codes, joins = part.begin > 0](const Run& run) {
                     table_gradient(run.at<float>(made.gradient), run.at<uint8_t>(codes), pixels, part.channels,
                                    y_channels, part.begin, part.slopes, run.at<float>(dx), sum, joins,
                                    run.at<void>(scratch), run.stream);
                   });
      take_gradient(part.from, dx);
    }
    if (sum != nullptr) scale_gradient(*layer(index).output, sum);
  };
}

}  // namespace qat::device
