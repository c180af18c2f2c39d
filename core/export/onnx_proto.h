// What the writers and the reader of ONNX files share. Internal to core/export: protobuf stays out of public headers.
#pragma once

#include <onnx.pb.h>

#include <cstdint>

#include "core/integer/integer_model.h"

namespace qat::exporter {

inline constexpr int64_t kOpset = 13;
inline constexpr int64_t kIrVersion = 8;
inline constexpr const char* kMicrosoft = "com.microsoft";
inline constexpr const char* kCodesSuffix = "_quantized";
inline constexpr int64_t kTableSize = 256;

/// The element type of a tensor of the model.
inline int32_t element_type(integer::CodeType type) {
  switch (type) {
    case integer::CodeType::kUint8:
    case integer::CodeType::kPixels:
      return onnx::TensorProto::UINT8;
    case integer::CodeType::kInt8:
      return onnx::TensorProto::INT8;
    case integer::CodeType::kFloat32:
      break;
  }
  return onnx::TensorProto::FLOAT;
}

/// The table of 256 codes of the functions that are written as an ONNX operator: leaky_relu, with alpha. (ONNX Runtime
/// approximates the sigmoid: 20 of 10.2 million codes differed.)
bool has_operator(const std::string& function);
std::vector<int16_t> operator_table(double alpha, const integer::Tensor& x, const integer::Tensor& y);

/// Parses and checks that there is a graph. Throws FileError.
onnx::ModelProto parse_model(const std::string& bytes, const std::string& source);

/// The same model, the same bytes.
std::string serialize(const onnx::ModelProto& model);

/// Throws ExportError unless ONNX Runtime computes from either form of file exactly what the engine computes.
void require_exportable(const integer::IntegerModel& model, const char* format);

}  // namespace qat::exporter
