#include "trainers/predict.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/base/error.h"
#include "core/config/node.h"
#include "core/engine/engine.h"
#include "core/export/export.h"
#include "core/integer/pixels.h"
#include "datasets/image_file.h"
#include "datasets/pixel_ops.h"
#include "datasets/transforms.h"

namespace qat::trainers {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::vector<std::string> image_files(const std::vector<std::string>& inputs) {
  std::vector<std::string> files;
  for (const std::string& input : inputs) {
    if (!fs::is_directory(input)) {
      files.push_back(input);
      continue;
    }
    const size_t before = files.size();
    for (const auto& entry : fs::directory_iterator(input)) {
      if (datasets::has_image_extension(entry.path().string())) files.push_back(entry.path().string());
    }
    QAT_CHECK_AS(FileError, files.size() > before, "{}: the folder holds no image files", input);
    std::sort(files.begin() + static_cast<std::ptrdiff_t>(before), files.end());
  }
  return files;
}

/// The way of an image file to the network's input.
class Pipeline {
 public:
  Pipeline(const integer::Preprocessing& preprocessing, const integer::Tensor& input)
      : expected_{input.shape[1], input.shape[2], input.shape[0]} {
    std::vector<config::Node> steps;
    if (!preprocessing.transforms.empty()) {
      steps = config::load_text(preprocessing.transforms, "the file's transforms").root().items();
    } else if (!preprocessing.mean.empty()) {
      const auto list = [](const std::vector<float>& values) { return fmt::format("[{}]", fmt::join(values, ", ")); };
      const std::string text =
          fmt::format("- {{normalize: {{mean: {}, std: {}}}}}", list(preprocessing.mean), list(preprocessing.std));
      steps = config::load_text(text, "the file's normalization").root().items();
    }
    bool makes_grey = false;
    for (const config::Node& step : steps) makes_grey = makes_grey || config::tagged(step).first == "grayscale";
    channels_ = makes_grey ? 3 : expected_[2];
    transforms_ = datasets::Transforms(steps, {datasets::kVaries, datasets::kVaries, channels_});
  }

  void load(const std::string& path, std::span<float> out) const {
    datasets::Image image = datasets::read_image(path);
    if (channels_ == 1) image = datasets::grayscale(image, 1);
    try {
      transforms_.apply(std::move(image), 0, expected_, out.data());
    } catch (const FileError&) {
      throw;
    } catch (const Error& error) {
      throw Error(fmt::format("{}: {}", path, error.what()));
    }
  }

 private:
  datasets::Shape expected_;
  int64_t channels_ = 3;
  datasets::Transforms transforms_;
};

std::vector<double> softmax(std::span<const float> logits) {
  const double most = std::ranges::max(logits);
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp(logit - most));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

}  // namespace

Json predict_report(const std::string& path, const std::vector<std::string>& inputs, int64_t count) {
  const integer::IntegerModel model = exporter::format_of(path).read(path);
  QAT_CHECK(model.inputs.size() == 1 && model.outputs.size() == 1,
            "{}: predict needs a network of one image and one "
            "output",
            path);
  const integer::Tensor& input = model.tensors[static_cast<size_t>(model.inputs[0])];
  const integer::Tensor& output = model.tensors[static_cast<size_t>(model.outputs[0])];
  const bool takes_pixels = input.type == integer::CodeType::kPixels;
  QAT_CHECK((takes_pixels || input.type == integer::CodeType::kFloat32) && input.shape.size() == 3 &&
                (input.shape[0] == 1 || input.shape[0] == 3) && output.type == integer::CodeType::kFloat32,
            "{}: predict needs a network from images of 1 or 3 channels to float32 values", path);
  const Pipeline pipeline(model.preprocessing, input);
  const engine::Engine engine(model);
  engine::Runner runner(engine, 1);
  std::vector<float> image(static_cast<size_t>(input.size()));
  Json predictions = Json::array();
  for (const std::string& file : image_files(inputs)) {
    pipeline.load(file, image);
    if (takes_pixels) {
      std::ranges::copy(integer::pixels_of(image, model.preprocessing, input.shape[0]), runner.input_codes().begin());
    } else {
      std::ranges::copy(image, runner.input_values().begin());
    }
    runner.run();
    const std::vector<double> p = softmax(runner.output_values());
    std::vector<size_t> order(p.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return p[a] > p[b]; });
    Json top = Json::array();
    for (size_t i = 0; i < std::min(order.size(), static_cast<size_t>(count)); ++i) {
      const size_t label = order[i];
      const auto& names = model.preprocessing.classes;
      top.push_back({{"label", label},
                     {"class", label < names.size() ? names[label] : std::to_string(label)},
                     {"probability", p[label]}});
    }
    Json prediction{{"file", file}};
    prediction.update(top[0]);
    prediction["top"] = std::move(top);
    predictions.push_back(std::move(prediction));
  }
  return {{"model", path}, {"predictions", std::move(predictions)}};
}

}  // namespace qat::trainers
