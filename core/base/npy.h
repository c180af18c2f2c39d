// numpy's array files, version 1.0.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

/// The bytes of a .npy file with a row-major array: `dtype` is numpy's name of the element ("|u1", "|i1", "<f4"),
/// `data` the elements' bytes, little-endian.
std::string npy(std::string_view dtype, const std::vector<int64_t>& shape, std::string_view data);

}  // namespace qat
