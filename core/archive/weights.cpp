#include "core/archive/weights.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "core/archive/sniff.h"
#include "core/base/files.h"
#include "core/base/text.h"

namespace qat::archive {
namespace {

constexpr std::array<std::string_view, 4> kPlaces{"state_dict", "model_state_dict", "model", "net"};
constexpr std::string_view kParallel = "module.";

/// A safetensors header is a JSON object behind 8 bytes of length; no .pth file has '{' there.
bool is_safetensors(std::string_view bytes, const std::string& source) {
  return (bytes.size() > 8 && bytes[8] == '{') || source.ends_with(".safetensors");
}

}  // namespace

WeightsFile WeightsFile::open(const std::string& path) { return parse(read_file(path), path); }

WeightsFile WeightsFile::parse(std::string bytes, const std::string& source) {
  if (!is_safetensors(bytes, source)) return {PthFile::parse(std::move(bytes), source), source};
  if (bytes.size() <= 8 || bytes[8] != '{') {
    try {
      refuse_other_formats(bytes);
    } catch (const Error& error) {
      throw FileError(fmt::format("{}: {}", source, error.what()));
    }
  }
  return {SafetensorsFile::parse(std::move(bytes), source), source};
}

const std::vector<TensorView>& WeightsFile::tensors() const {
  return std::visit([](const auto& file) -> const std::vector<TensorView>& { return file.tensors(); }, file_);
}

std::vector<TensorView> WeightsFile::state_dict() const {
  const bool may_nest = std::holds_alternative<PthFile>(file_);
  const auto place_of = [&](std::string_view name) {
    const size_t slash = may_nest ? name.rfind('/') : std::string_view::npos;
    return slash == std::string_view::npos ? std::string_view() : name.substr(0, slash);
  };
  std::set<std::string_view> places;
  for (const TensorView& tensor : tensors()) places.insert(place_of(tensor.name));
  const auto found = std::ranges::find_if(kPlaces, [&](std::string_view place) { return places.contains(place); });
  std::string_view place;
  if (found != kPlaces.end()) {
    place = *found;
  } else if (!places.contains("")) {
    std::vector<std::string> names;
    for (const std::string_view name : places) names.push_back(in_quotes(name));
    if (names.size() > 8) {
      names.resize(8);
      names.push_back("...");
    }
    QAT_CHECK_AS(FileError, places.size() == 1, "{}: expected the tensors of one network, found {}", source_,
                 names.empty() ? "none" : "some below " + join(names));
    place = *places.begin();
  }
  std::vector<TensorView> state;
  for (const TensorView& tensor : tensors()) {
    if (place_of(tensor.name) != place) continue;
    state.push_back(tensor);
    if (!place.empty()) state.back().name.erase(0, place.size() + 1);
  }
  const auto is_parallel = [](const TensorView& tensor) { return tensor.name.starts_with(kParallel); };
  if (std::ranges::all_of(state, is_parallel)) {
    for (TensorView& tensor : state) tensor.name.erase(0, kParallel.size());
  }
  return state;
}

}  // namespace qat::archive
