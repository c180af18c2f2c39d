// Maps so large that a convolution's gradients are made in parts, against the double composition.
#include <gtest/gtest.h>

#include "core/autograd/functions.h"
#include "tests/support/tensors.h"

namespace qat::autograd {
namespace {

using at::Tensor;
using test::relative_error;

struct Shape {
  std::vector<int64_t> x, weight;
  int64_t stride, padding, groups;
};

class ConvParts : public testing::TestWithParam<Shape> {};

TEST_P(ConvParts, GradientsEqualTheDoubleComposition) {
  const Shape& shape = GetParam();
  for (const Memory memory : {Memory::kExact, Memory::kCompact}) {
    at::manual_seed(3);
    const QuantizedTensor x = test::random_codes(shape.x, 0.05f, {0, 255, 100});
    const Tensor weight = (at::randn(shape.weight) * 0.1).set_requires_grad(true);
    const int64_t channels = weight.size(0);
    const Tensor scale = weight.detach().abs().flatten(1).amax(1) / 127.0;
    ConvCall call;
    call.name = "conv";
    call.geometry.stride = {shape.stride, shape.stride}, call.geometry.padding = {shape.padding, shape.padding};
    call.geometry.dilation = {1, 1}, call.geometry.groups = shape.groups;
    call.live = call.relu = true;
    call.memory = memory;
    call.batch_norm = BatchNorm{.gamma = (at::rand({channels}) + 0.5).set_requires_grad(true),
                                .beta = (at::randn({channels}) * 0.2).set_requires_grad(true),
                                .running_mean = at::zeros({channels}),
                                .running_var = at::ones({channels})};
    call.output = test::output_quantizer(0.011f, 0);
    const QuantizedWeight w = quantize_weight(weight, scale, -127, 127, GradientRule::kStraightThrough, 1.0);
    const ConvResult result = conv(x, w, call);
    const Tensor g = at::randn(result.codes->sizes());

    const Tensor rx = test::real(x).set_requires_grad(true);
    const Tensor s = scale.to(at::kDouble).view({-1, 1, 1, 1});
    const Tensor rw =
        ((weight.detach() / scale.view({-1, 1, 1, 1})).round().to(at::kDouble) * s).set_requires_grad(true);
    const Tensor gamma = call.batch_norm->gamma.detach().to(at::kDouble).set_requires_grad(true);
    const Tensor y = at::conv2d(rx, rw, {}, call.geometry.stride, call.geometry.padding, {1, 1}, shape.groups);
    const Tensor v = at::batch_norm(y, gamma, call.batch_norm->beta.detach().to(at::kDouble), {}, {}, true, 0.1,
                                    call.batch_norm->eps, false);
    const Tensor t = v.detach() / 0.011f;
    (v * g * (t > 0).logical_and(t <= 255)).sum().backward();

    result.codes->handle().backward(g);
    const double tolerance = memory == Memory::kExact ? 1e-5 : 1e-4;
    EXPECT_LT(relative_error(x.handle().grad(), rx.grad()), tolerance);
    EXPECT_LT(relative_error(weight.grad(), rw.grad()), tolerance);
    EXPECT_LT(relative_error(call.batch_norm->gamma.grad(), gamma.grad()), tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ConvParts,
                         testing::Values(Shape{{7, 16, 40, 41}, {24, 16, 3, 3}, 1, 1, 1},
                                         Shape{{5, 12, 67, 33}, {40, 12, 1, 1}, 1, 0, 1},
                                         Shape{{9, 24, 39, 38}, {24, 1, 3, 3}, 1, 1, 24},
                                         Shape{{6, 3, 90, 91}, {32, 3, 3, 3}, 2, 1, 1}));

TEST(KeptCodes, AreSharedTwoAByteAndComeBack) {
  const ops::CodeRange range{.lo = 120, .hi = 135, .zero_point = 128};
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{3, 5, 7, 3}, {4, 6}, {2, 3, 5}}) {
    const QuantizedTensor x = test::random_codes(sizes, 0.05f, range);
    const KeptCodes kept = x.kept();
    EXPECT_TRUE(at::equal(kept.codes(), x.codes()));
    EXPECT_EQ(kept.codes().strides(), x.codes().strides());
    EXPECT_NE(kept.codes().data_ptr(), x.codes().data_ptr());
    EXPECT_EQ(kept.sizes(), x.sizes());
  }
}

TEST(KeptCodes, OfMoreBitsAreTheCodesThemselves) {
  const QuantizedTensor x = test::random_codes({2, 3, 4, 4}, 0.05f, {0, 16, 0});
  EXPECT_EQ(x.kept().codes().data_ptr(), x.codes().data_ptr());
  // A code outside its range is not lost.
  const Tensor codes = at::full({2, 8}, 40, at::kByte);
  EXPECT_TRUE(at::equal(KeptCodes(codes, {0, 15, 0}).codes(), codes));
}

}  // namespace
}  // namespace qat::autograd
