// libFuzzer target: any bytes are tensors or a FileError, as a file and as the pickle of a zip archive (whose CRC-32
// would hide it from mutations).
#include <array>

#include "core/archive/weights.h"
#include "core/archive/zip.h"

namespace {

void read(std::string bytes) {
  try {
    qat::archive::WeightsFile::parse(std::move(bytes), "fuzz").state_dict();
  } catch (const qat::FileError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  const std::string storage(256, 'x');
  read(qat::archive::write_zip(
      std::array<qat::archive::ZipRecord, 3>{{{"m/data.pkl", bytes}, {"m/data/0", storage}, {"m/data/1", storage}}}));
  return 0;
}
