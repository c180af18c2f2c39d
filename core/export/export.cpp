#include "core/export/export.h"

#include "core/base/files.h"
#include "core/base/text.h"
#include "core/export/onnx.h"
#include "core/integer/model_file.h"

namespace qat::exporter {
namespace {

void write_safetensors_model(const integer::IntegerModel& model, const std::string& path) {
  write_file_atomic(path, integer::save_model(model));
}

void write_onnx_qdq(const integer::IntegerModel& model, const std::string& path) {
  write_file_atomic(path, onnx_qdq(model));
}

void write_onnx_qoperator(const integer::IntegerModel& model, const std::string& path) {
  write_file_atomic(path, onnx_qoperator(model));
}

integer::IntegerModel read_onnx(const std::string& path) { return parse_onnx(read_file(path), path); }

Registry<Format> builtin() {
  Registry<Format> formats("format");
  formats.add("safetensors", "the whole integer model, read by the engine",
              {".safetensors", write_safetensors_model, integer::open_model});
  formats.add("onnx-qdq", "ONNX with QuantizeLinear and DequantizeLinear around float operators",
              {".onnx", write_onnx_qdq, read_onnx});
  formats.add("onnx-qoperator", "ONNX with operators on integers (QLinearConv, ...)",
              {".qoperator.onnx", write_onnx_qoperator, read_onnx});
  return formats;
}

}  // namespace

Registry<Format>& formats() {
  static Registry<Format> instance = builtin();
  return instance;
}

const Format& format_of(const std::string& path) {
  std::vector<std::string> known;
  for (const std::string& name : formats().names()) {
    const Format& format = formats().get(name);
    if (path.size() >= format.extension.size() && path.ends_with(format.extension)) return format;
    known.push_back(format.extension);
  }
  throw FileError(fmt::format("{}: cannot tell the format from the name; known endings: {}", path, join(known, ", ")));
}

}  // namespace qat::exporter
