// libFuzzer target: any bytes are an ONNX file that qat exported, or a FileError.
#include "core/base/error.h"
#include "core/export/onnx.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    qat::exporter::parse_onnx({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const qat::FileError&) {
  }
  return 0;
}
