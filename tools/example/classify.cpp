// The engine alone: an exported network classifies a raw image (PGM or PPM, of the network's size). It links qat_base,
// qat_integer, qat_ops and qat_engine, less than 2 MB together, and nothing of LibTorch.
//   classify MODEL.safetensors IMAGE.pgm
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "core/base/error.h"
#include "core/engine/engine.h"
#include "core/integer/model_file.h"

int main(int argc, char** argv) try {
  if (argc != 3) throw qat::UsageError("usage: classify MODEL.safetensors IMAGE.pgm");
  const qat::integer::IntegerModel model = qat::integer::open_model(argv[1]);
  const std::vector<int64_t>& shape = model.tensors.at(model.inputs.at(0)).shape;  // {C, H, W}
  const auto& [mean, std, transforms, classes] = model.preprocessing;

  std::ifstream file(argv[2], std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, highest = 0;
  file >> magic >> width >> height >> highest;
  file.get();
  const std::string pixels{std::istreambuf_iterator<char>(file), {}};
  const int64_t channels = magic == "P6" ? 3 : 1;
  QAT_CHECK(shape == (std::vector<int64_t>{channels, height, width}) && highest == 255 &&
                pixels.size() == static_cast<size_t>(channels * height * width),
            "{}: expected a binary PGM or PPM image of [{}]", argv[2], fmt::join(shape, ", "));

  const qat::engine::Engine engine(model);
  qat::engine::Runner runner(engine, /*batch=*/1);  // all memory that run() needs
  const std::span<float> input = runner.input_values();
  for (size_t i = 0; i < input.size(); ++i) {
    const size_t c = i % static_cast<size_t>(channels);
    input[i] = (static_cast<float>(static_cast<uint8_t>(pixels[i])) / 255.0f - mean.at(c)) / std.at(c);
  }
  runner.run();
  const std::span<const float> logits = runner.output_values();
  const auto label = static_cast<size_t>(std::ranges::max_element(logits) - logits.begin());
  std::printf("%zu %s\n", label, label < classes.size() ? classes[label].c_str() : "");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "classify: %s\n", error.what());
  return 1;
}
