#include "datasets/coco.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/text.h"

namespace qat::datasets {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxAnnotationBytes = uint64_t{1} << 32;
constexpr int kMaxDepth = 4;  // annotations[i].bbox[j]

// Everything but what is read below is dropped while parsing: the outlines alone are most of a file.
json parse(const std::string& path) {
  const std::string text = read_file(path, kMaxAnnotationBytes);
  const auto keep = [](int depth, json::parse_event_t event, json& value) {
    if (depth > kMaxDepth) return false;
    if (event != json::parse_event_t::key) return true;
    const auto& key = value.get_ref<const std::string&>();
    for (const char* name : {"images", "annotations", "categories", "id", "file_name", "image_id", "category_id",
                             "bbox", "iscrowd", "name"}) {
      if (key == name) return true;
    }
    return false;
  };
  json root = json::parse(text, keep, false);
  QAT_CHECK_AS(FileError, !root.is_discarded() && root.is_object(),
               "{}: expected COCO's annotations, found no JSON map", path);
  return root;
}

// One entry of a list of the file, with checked access to its fields.
class Entry {
 public:
  Entry(const std::string& path, const char* list, size_t index, const json& value)
      : path_(path), list_(list), index_(index), value_(value) {
    if (!value.is_object()) fail("expected a map");
  }

  int64_t integer(const char* key) const {
    const json* found = find(key);
    if (found == nullptr || !found->is_number_integer() ||
        (found->is_number_unsigned() && found->get<uint64_t>() > uint64_t{INT64_MAX})) {
      fail(fmt::format("expected an integer '{}'", key));
    }
    return found->get<int64_t>();
  }
  std::string text(const char* key) const {
    const json* found = find(key);
    if (found == nullptr || !found->is_string()) fail(fmt::format("expected a string '{}'", key));
    return found->get<std::string>();
  }
  bool flag(const char* key) const { return find(key) != nullptr && integer(key) != 0; }

  // [x, y, width, height] in pixels.
  Box box() const {
    const json* found = find("bbox");
    std::vector<double> v;
    if (found != nullptr && found->is_array() && found->size() == 4) {
      for (const json& number : *found) {
        if (number.is_number()) v.push_back(number.get<double>());
      }
    }
    const auto sane = [](double x) { return std::abs(x) < 1e9; };
    if (v.size() != 4 || !std::all_of(v.begin(), v.end(), sane) || v[2] < 0 || v[3] < 0) {
      fail("expected 'bbox': [x, y, width, height]");
    }
    return {v[0], v[1], v[0] + v[2], v[1] + v[3]};
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw FileError(fmt::format("{}: {}[{}]: {}", path_, list_, index_, what));
  }

 private:
  const json* find(const char* key) const {
    const auto found = value_.find(key);
    return found == value_.end() ? nullptr : &*found;
  }

  const std::string& path_;
  const char* list_;
  size_t index_;
  const json& value_;
};

std::vector<Entry> entries(const std::string& path, const json& root, const char* list) {
  const auto found = root.find(list);
  QAT_CHECK_AS(FileError, found != root.end() && found->is_array(), "{}: expected a list '{}'", path, list);
  std::vector<Entry> all;
  for (size_t i = 0; i < found->size(); ++i) all.emplace_back(path, list, i, (*found)[i]);
  return all;
}

bool stays_inside(const std::filesystem::path& name) {
  if (name.empty() || name.is_absolute()) return false;
  return std::find(name.begin(), name.end(), "..") == name.end();
}

struct LargestBox {
  double area = 0;
  int64_t category = 0;
  Box box;
};

}  // namespace

CocoImages read_coco(const std::string& annotations, const std::string& folder, bool crop) {
  const json root = parse(annotations);

  std::map<int64_t, std::string> names;  // by category id
  for (const Entry& entry : entries(annotations, root, "categories")) {
    if (!names.emplace(entry.integer("id"), entry.text("name")).second) entry.fail("its id is there twice");
  }
  CocoImages result;
  std::map<int64_t, int64_t> labels;
  for (const auto& [id, name] : names) {
    labels.emplace(id, static_cast<int64_t>(labels.size()));
    result.category_ids.push_back(id);
    result.category_names.push_back(name);
  }

  std::map<int64_t, std::string> paths;  // by image id
  for (const Entry& entry : entries(annotations, root, "images")) {
    const std::string name = entry.text("file_name");
    if (!stays_inside(name)) entry.fail("its file name " + in_quotes(name) + " leaves the folder of the images");
    const std::string path = (std::filesystem::path(folder) / name).string();
    if (!paths.emplace(entry.integer("id"), path).second) entry.fail("its id is there twice");
  }

  std::map<int64_t, LargestBox> largest;  // by image id
  for (const Entry& entry : entries(annotations, root, "annotations")) {
    const int64_t image = entry.integer("image_id"), category = entry.integer("category_id");
    if (paths.count(image) == 0) entry.fail(fmt::format("there is no image with the id {}", image));
    if (labels.count(category) == 0) entry.fail(fmt::format("there is no category with the id {}", category));
    const Box box = entry.box();
    const double area = (box.right - box.left) * (box.bottom - box.top);
    LargestBox& best = largest[image];
    if (!entry.flag("iscrowd") && area > best.area) best = {area, category, box};
  }
  for (const auto& [id, best] : largest) {
    if (best.area == 0) continue;
    result.files.push_back({paths.at(id), labels.at(best.category), crop ? std::optional(best.box) : std::nullopt});
  }
  QAT_CHECK_AS(FileError, !result.files.empty(), "{}: expected at least one image with an annotation", annotations);
  return result;
}

}  // namespace qat::datasets
