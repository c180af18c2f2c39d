#include "core/autograd/quantized_tensor.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <limits>

#include "core/autograd/node.h"
#include "core/base/error.h"
#include "core/ops/encode.h"

namespace qat::autograd {
QuantizedTensor::QuantizedTensor(at::Tensor codes, float scale, ops::CodeRange range, at::Tensor handle)
    : codes_(std::move(codes)), scale_(scale), range_(range), handle_(std::move(handle)) {
  QAT_CHECK(codes_.scalar_type() == at::kByte && codes_.sizes() == handle_.sizes(),
            "a quantized tensor needs uint8 codes of its handle's sizes");
}

at::Tensor QuantizedTensor::dequantize() const {
  at::Tensor values = empty_kernel_layout(codes_.sizes(), at::kFloat);
  ops::dequantize(codes_.const_data_ptr<uint8_t>(), codes_.numel(), scale_, range_.zero_point,
                  values.mutable_data_ptr<float>());
  return connect(values, {handle_}, std::make_unique<PassThrough>());
}

at::Tensor make_handle(at::IntArrayRef sizes) {
  at::Tensor handle = at::empty_strided(sizes, std::vector<int64_t>(sizes.size(), 0), at::kFloat);
  if (handle.numel() > 0) *handle.mutable_data_ptr<float>() = std::numeric_limits<float>::quiet_NaN();
  return handle;
}

at::Tensor kernel_layout(const at::Tensor& x) {
  if (x.dim() == 4) return x.contiguous(at::MemoryFormat::ChannelsLast);
  return x.dim() < 3 ? x.contiguous() : x.movedim(1, -1).contiguous().movedim(-1, 1);
}

at::Tensor empty_kernel_layout(at::IntArrayRef sizes, at::ScalarType type) {
  if (sizes.size() == 4) return at::empty(sizes, at::TensorOptions(type), at::MemoryFormat::ChannelsLast);
  if (sizes.size() < 3) return at::empty(sizes, at::TensorOptions(type));
  std::vector<int64_t> channels_last = sizes.vec();
  std::rotate(channels_last.begin() + 1, channels_last.begin() + 2, channels_last.end());
  return at::empty(channels_last, at::TensorOptions(type)).movedim(-1, 1);
}

at::Tensor mask_bits(int64_t elements) { return at::empty({(elements + 7) / 8}, at::kByte); }

}  // namespace qat::autograd
