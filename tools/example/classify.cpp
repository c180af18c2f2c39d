// The engine alone: an exported network classifies a raw image (PGM or PPM, of the network's size). It links qat_base,
// qat_integer, qat_ops and qat_engine, less than 2 MB together, and nothing of LibTorch.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "core/base/error.h"
#include "core/engine/engine.h"
#include "core/integer/model_file.h"
#include "core/integer/pixels.h"

int main(int argc, char** argv) try {
  if (argc != 3) throw qat::UsageError("usage: classify MODEL.safetensors IMAGE.pgm");
  const qat::engine::Engine engine(with_pixel_input(qat::integer::open_model(argv[1])));
  const qat::integer::Tensor& input = engine.model().tensors.at(engine.model().inputs.at(0));
  const auto& classes = engine.model().preprocessing.classes;

  std::ifstream file(argv[2], std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, highest = 0;
  (file >> magic >> width >> height >> highest).get();
  const std::string pixels{std::istreambuf_iterator<char>(file), {}};
  const int64_t channels = magic == "P6" ? 3 : 1;
  QAT_CHECK(input.shape == (std::vector{channels, height, width}) && highest == 255 &&
                pixels.size() == static_cast<size_t>(channels * height * width),
            "{}: expected a binary PGM or PPM image of [{}]", argv[2], fmt::join(input.shape, ", "));

  qat::engine::Runner runner(engine, /*batch=*/1);  // all memory that run() needs
  std::ranges::copy(pixels, runner.input_codes().begin());
  runner.run();
  const std::span<const float> logits = runner.output_values();
  const auto label = static_cast<size_t>(std::ranges::max_element(logits) - logits.begin());
  std::printf("%zu %s\n", label, label < classes.size() ? classes[label].c_str() : "");
} catch (const std::exception& error) {
  std::fprintf(stderr, "classify: %s\n", error.what());
  return 1;
}
