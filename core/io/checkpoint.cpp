#include "core/io/checkpoint.h"

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <zlib.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/text.h"

namespace qat::io {
namespace {

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 10> kDtypes{{
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
}};

std::string dtype_name(const std::string& name, const at::Tensor& tensor) {
  for (const auto& [text, type] : kDtypes) {
    if (type == tensor.scalar_type()) return std::string(text);
  }
  throw CheckpointError(fmt::format("{}: safetensors has no dtype for {}", name, c10::toString(tensor.scalar_type())));
}

std::string shape_and_dtype(const std::string& name, const at::Tensor& tensor) {
  return fmt::format("[{}] {}", fmt::join(tensor.sizes(), ", "), dtype_name(name, tensor));
}

void add_names(std::vector<std::string>& parts, const char* what, const std::vector<std::string>& names) {
  if (!names.empty()) parts.push_back(fmt::format("{} {}: {}", names.size(), what, join(names)));
}

/// {"tensors": {name: CRC-32}, "metadata": CRC-32}.
constexpr const char* kChecksums = "qat.crc32";

uint32_t crc_of(const void* data, size_t bytes, uint32_t before = 0) {
  return static_cast<uint32_t>(::crc32_z(before, static_cast<const Bytef*>(data), bytes));
}

uint32_t crc_of(const std::map<std::string, std::string>& metadata) {
  uint32_t crc = 0;
  for (const auto& [key, value] : metadata) {
    if (key == kChecksums) continue;
    crc = crc_of(key.c_str(), key.size() + 1, crc);
    crc = crc_of(value.c_str(), value.size() + 1, crc);
  }
  return crc;
}

void check_crc(const SafetensorsFile& file, const std::string& path) {
  const auto found = file.metadata().find(kChecksums);
  if (found == file.metadata().end()) return;
  const auto damaged = [&](const std::string& what) {
    return CheckpointError(fmt::format("{}: damaged: {} does not have the checksum it was written with", path, what));
  };
  nlohmann::json checksums;
  try {
    checksums = nlohmann::json::parse(found->second);
    if (checksums.at("metadata").get<uint32_t>() != crc_of(file.metadata())) throw damaged("the metadata");
    for (const TensorView& view : file.tensors()) {
      if (checksums.at("tensors").at(view.name).get<uint32_t>() != crc_of(view.data, view.bytes)) {
        throw damaged(view.name);
      }
    }
  } catch (const nlohmann::json::exception&) {
    throw damaged("the list of checksums");
  }
}

}  // namespace

at::Tensor to_tensor(const TensorView& view) {
  for (const auto& [text, type] : kDtypes) {
    if (text != view.dtype) continue;
    at::Tensor tensor = at::empty(view.shape, type);
    if (view.bytes > 0) std::memcpy(tensor.data_ptr(), view.data, view.bytes);
    return tensor;
  }
  throw CheckpointError(fmt::format("{}: no LibTorch type for dtype {}", view.name, view.dtype));
}

StoredTensors::StoredTensors(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) {
    QAT_CHECK_AS(CheckpointError, tensor.defined(), "{}: the tensor is undefined", name);
    const at::Tensor& kept = kept_.emplace_back(tensor.detach().cpu().contiguous());
    views_.push_back({name, dtype_name(name, kept), kept.sizes().vec(), kept.const_data_ptr(), kept.nbytes()});
  }
}

void write_tensors(const std::string& path, const TensorFile& file) {
  const StoredTensors stored(file.tensors);
  nlohmann::json checksums{{"metadata", crc_of(file.metadata)}, {"tensors", nlohmann::json::object()}};
  for (const TensorView& view : stored.views()) checksums["tensors"][view.name] = crc_of(view.data, view.bytes);
  std::map<std::string, std::string> metadata = file.metadata;
  metadata[kChecksums] = checksums.dump();
  write_file_atomic(path, write_safetensors(stored.views(), metadata));
}

TensorFile read_tensors(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  check_crc(file, path);
  TensorFile result{{}, file.metadata()};
  result.metadata.erase(kChecksums);
  for (const TensorView& view : file.tensors()) result.tensors.emplace(view.name, to_tensor(view));
  return result;
}

TensorMap state_of(const torch::nn::Module& module) {
  TensorMap state;
  for (const auto& item : module.named_parameters()) state.emplace(item.key(), item.value());
  for (const auto& item : module.named_buffers()) {
    if (item.value().defined()) state.emplace(item.key(), item.value());
  }
  return state;
}

void copy_state(const TensorMap& into, const TensorMap& from, const std::string& source) {
  std::vector<std::string> missing, unexpected, mismatched;
  for (const auto& [name, tensor] : into) {
    const auto found = from.find(name);
    if (found == from.end()) {
      missing.push_back(name);
    } else if (found->second.sizes() != tensor.sizes() || found->second.scalar_type() != tensor.scalar_type()) {
      mismatched.push_back(fmt::format("{} expected {}, found {}", name, shape_and_dtype(name, tensor),
                                       shape_and_dtype(name, found->second)));
    }
  }
  for (const auto& [name, tensor] : from) {
    if (into.count(name) == 0) unexpected.push_back(name);
  }
  std::vector<std::string> parts;
  add_names(parts, "missing", missing);
  add_names(parts, "unexpected", unexpected);
  add_names(parts, "mismatched", mismatched);
  QAT_CHECK_AS(CheckpointError, parts.empty(), "{}: does not fit the network: {}", source, join(parts, "; "));
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : into) at::Tensor(tensor).copy_(from.at(name));
}

}  // namespace qat::io
