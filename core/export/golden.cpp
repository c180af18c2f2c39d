#include "core/export/golden.h"

#include <cctype>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/npy.h"
#include "core/engine/layout.h"
#include "core/export/onnx.h"

namespace qat::exporter {
namespace {

using integer::CodeType;
using integer::Tensor;
using Json = nlohmann::ordered_json;

const char* dtype_of(CodeType type) {
  switch (type) {
    case CodeType::kUint8:
    case CodeType::kPixels:
      return "|u1";
    case CodeType::kInt8:
      return "|i1";
    case CodeType::kFloat32:
      break;
  }
  return "<f4";
}

/// A name that is a file's on every system, unique by its number.
std::string file_name(int index, const std::string& name) {
  std::string file = fmt::format("{:03}_{}.npy", index, name);
  for (char& c : file) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.' && c != '-') c = '_';
  }
  return file;
}

}  // namespace

void write_golden(const integer::IntegerModel& model, const engine::Value& images, const std::string& folder) {
  QAT_CHECK(model.inputs.size() == 1, "expected a model of one input, found {}", model.inputs.size());
  make_directories(folder);
  Json index{{"samples", images.batch}, {"input", {}}, {"tensors", Json::array()}, {"outputs", Json::array()}};
  engine::Engine(model).run({images}, [&](int at, const engine::Value& nhwc) {
    const Tensor& t = model.tensors[static_cast<size_t>(at)];
    const engine::Value value = engine::to_nchw(nhwc, t);
    const bool is_float = t.type == CodeType::kFloat32;
    const void* data = is_float ? static_cast<const void*>(value.values.data()) : value.codes.data();
    const size_t bytes = is_float ? value.values.size() * sizeof(float) : value.codes.size();
    std::vector<int64_t> shape = {value.batch};
    shape.insert(shape.end(), t.shape.begin(), t.shape.end());
    const std::string name = onnx_name(t);
    Json entry{{"name", name}, {"file", file_name(at, name)}};
    write_file_atomic(folder + "/" + file_name(at, name),
                      npy(dtype_of(t.type), shape, {static_cast<const char*>(data), bytes}));
    if (at == model.inputs[0]) {
      index["input"] = std::move(entry);
    } else if (is_float) {
      index["outputs"].push_back(std::move(entry));
    } else {
      entry["scale"] = t.scale;
      entry["zero_point"] = t.zero_point;
      index["tensors"].push_back(std::move(entry));
    }
  });
  write_file_atomic(folder + "/index.json", index.dump(2) + "\n");
}

}  // namespace qat::exporter
