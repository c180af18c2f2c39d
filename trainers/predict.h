// What an exported file says of images. Free of LibTorch headers: the engine computes.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace qat::trainers {

/// Runs the network of an exported file (any format) on image files with the preprocessing that the file holds:
/// {model, predictions: [{file, label, class, probability, top: [{label, class, probability}]}]}, `top` with the
/// `count` most probable classes. Probabilities are the softmax of the outputs; "class" is the file's name for the
/// label, or the number. Images become grey where the network takes one channel. A folder stands for its image files by
/// name. Throws FileError for a file that is none, Error for images that do not fit the network.
nlohmann::ordered_json predict_report(const std::string& model, const std::vector<std::string>& inputs, int64_t count);

}  // namespace qat::trainers
