// ONNX files of an IntegerModel, in the two forms in which runtimes take quantized networks, and their reader.
//
// onnx-qdq        float operators between DequantizeLinear and QuantizeLinear (opset 13); runtimes fuse them to integer
//                 kernels. Weights are int8 (or uint8) initializers, scale per output channel on axis 0; biases int32
//                 with scale fl32(s_x * s_w[c]). Every node has initializers and a DequantizeLinear of its own.
// onnx-qoperator  QLinearConv and ONNX Runtime's com.microsoft operators on codes.
//
// In both: IR version 8; scales and zero points of a tensor are rank-0 initializers; a range of codes that is narrower
// than its type's is an integer Clip behind the operator; ReLU on codes is an integer Clip(min = zero point); a
// function of one code (SiLU, hardswish, ...; all but leaky ReLU) is a Gather from its 256 values; channel slices,
// shuffles (Slice; Reshape, Transpose, Reshape) and the spreading of a transposed convolution's input (Reshape, Pad,
// Reshape, Pad) move codes. Pixels are a uint8 input, preprocessed by Cast, Div, Sub, Div. Codes of tensor T are the value T_quantized, its parameters T_scale and T_zero_point.
// Metadata: qat.format, qat.target, qat.overflow (where sums saturate), qat.preprocessing {"mean", "std", "transforms",
// "classes"}, qat.sha256 {value: digest on the fixed input of fingerprint.h}.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/integer/integer_model.h"

namespace qat::exporter {

/// The bytes of the file: equal models, equal bytes. Throws ExportError with all nodes that ONNX Runtime would compute
/// differently, or in float, and the reasons; Error for a model that does not pass check().
std::string onnx_qdq(const integer::IntegerModel& model);
std::string onnx_qoperator(const integer::IntegerModel& model);

/// The float32 network that a model stands for, with a batch of one: weights and biases dequantized, ReLU where codes
/// begin at zero. For timing what runtimes do without quantization; no format. Throws ExportError.
std::string onnx_float(const integer::IntegerModel& model);

/// The model in a file of either form; `source` names it in errors. Throws FileError, with the node's name and the
/// reason, for anything that the writers above do not write. Weight zero points that are all alike come back as one.
integer::IntegerModel parse_onnx(const std::string& bytes, const std::string& source);

/// "onnx-qdq", "onnx-qoperator": what the metadata says; empty if it says nothing. Throws FileError.
std::string onnx_format(const std::string& bytes, const std::string& source);

/// The name of a tensor's value in the files: T_quantized for codes, T for float32 and pixels.
std::string onnx_name(const integer::Tensor& tensor);

/// A copy of a file for a judge: every batch size is open, and the values of all of the model's tensors but the inputs
/// are graph outputs (or, without `all_values`, only the file's own outputs), in the model's order.
std::string onnx_for_judge(const std::string& bytes, const integer::IntegerModel& model, bool all_values);

/// "conv1 (Conv)" for each node that computes on float32 values, of a model as a runtime optimised it: those that read
/// a float32 input or a dequantized value, but not QuantizeLinear, what only moves values (Transpose, Reshape, ...) and
/// the preprocessing of pixels.
/// Throws FileError if `bytes` is not an ONNX model.
std::vector<std::string> onnx_float_nodes(const std::string& bytes, const std::string& source);

}  // namespace qat::exporter
