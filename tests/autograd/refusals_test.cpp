// Calls whose gradients or codes would be silently wrong are refused.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/autograd/functions.h"
#include "core/base/error.h"
#include "tests/support/tensors.h"

namespace qat::autograd {
namespace {

using testing::HasSubstr;

template <class F>
std::string refusal(F call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Refusals, AWeightWrittenBetweenForwardAndBackward) {
  for (const GradientRule rule : {GradientRule::kStraightThrough, GradientRule::kLearnedStep}) {
    at::Tensor w = at::randn({3, 4}).requires_grad_();
    const QuantizedWeight q = quantize_weight(w, at::full({3}, 0.1f), -7, 7, rule, 1.0);
    {
      const at::NoGradGuard no_grad;
      w.sub_(0.5);
    }
    EXPECT_THAT(refusal([&] { dequantize(q).sum().backward(); }), HasSubstr("changed in place"));
  }
}

TEST(Refusals, AnInputWrittenBetweenForwardAndTheScalesBackward) {
  at::Tensor x = at::randn({2, 4});
  OutputQuantizer output = test::output_quantizer(0.1f, 128);
  output.scale.set_requires_grad(true);
  output.rule = GradientRule::kLearnedStep;
  output.learn = true;
  const QuantizedTensor q = encode(x, output);
  x.zero_();
  EXPECT_THAT(refusal([&] { q.dequantize().sum().backward(); }), HasSubstr("changed in place"));
}

TEST(Refusals, AFusedReluOnARangeThatReachesBelowZero) {
  const QuantizedTensor x = test::random_codes({2, 4}, 0.1f, {0, 255, 0});
  const QuantizedWeight w =
      quantize_weight(at::randn({3, 4}), at::full({3}, 0.1f), -7, 7, GradientRule::kStraightThrough, 1.0);
  ConvCall call;
  call.name = "fc";
  call.relu = true;
  call.output = test::output_quantizer(0.1f, 128);
  EXPECT_THAT(refusal([&] { conv(x, w, call); }), HasSubstr("starts at zero"));
}

}  // namespace
}  // namespace qat::autograd
