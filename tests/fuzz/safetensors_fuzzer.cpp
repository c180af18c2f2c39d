// libFuzzer target: any bytes are tensors or a FileError.
#include "core/base/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    qat::SafetensorsFile::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const qat::FileError&) {
  }
  return 0;
}
