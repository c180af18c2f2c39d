#include "core/autograd/quantized_tensor.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <limits>

#include "core/autograd/node.h"
#include "core/base/error.h"
#include "core/ops/encode.h"

namespace qat::autograd {

KeptCodes::KeptCodes(const at::Tensor& codes, const ops::CodeRange& range)
    : stored_(codes), sizes_(codes.sizes().vec()), lo_(range.lo) {
  if (range.hi - range.lo > 15) return;
  const at::Tensor packed = at::empty({ops::packed_bytes(codes.numel())}, at::kByte);
  packed_ = ops::pack_nibbles(codes.const_data_ptr<uint8_t>(), codes.numel(), lo_, packed.mutable_data_ptr<uint8_t>());
  if (packed_) stored_ = packed;
}

at::Tensor KeptCodes::codes() const {
  if (!packed_) return stored_;
  at::Tensor codes = empty_kernel_layout(sizes_, at::kByte);
  ops::unpack_nibbles(stored_.const_data_ptr<uint8_t>(), codes.numel(), lo_, codes.mutable_data_ptr<uint8_t>());
  return codes;
}

ops::StoredCodes KeptCodes::stored() const {
  if (!defined()) return {};
  const uint8_t* data = stored_.const_data_ptr<uint8_t>();
  return packed_ ? ops::StoredCodes(data, lo_) : ops::StoredCodes(data);
}

QuantizedTensor::QuantizedTensor(at::Tensor codes, float scale, ops::CodeRange range, at::Tensor handle, KeptCodes kept)
    : codes_(std::move(codes)),
      scale_(scale),
      range_(range),
      handle_(std::move(handle)),
      kept_(std::make_shared<KeptCodes>(std::move(kept))) {
  QAT_CHECK(codes_.scalar_type() == at::kByte && codes_.sizes() == handle_.sizes(),
            "a quantized tensor needs uint8 codes of its handle's sizes");
}

const KeptCodes& QuantizedTensor::kept() const {
  if (!kept_->defined()) *kept_ = KeptCodes(codes_, range_);
  return *kept_;
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
