// What the machine's multiply-add units do at most, from registers: the yardstick of `qat bench ops`.
#pragma once

#include <cstdint>

namespace qat::ops {

enum class Product {
  kFloat,  // float32 fused multiply-add
  kPairs,  // int16 pairs added to int32
};

/// Performs about `products` multiply-adds in independent chains of registers; returns how many exactly. Time it.
int64_t multiply_in_registers(Product kind, int64_t products);

}  // namespace qat::ops
