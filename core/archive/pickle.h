// Pickles that torch.save writes, read as data: nothing is ever called, imported or constructed by name.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/archive/budget.h"

namespace qat::archive {

/// One object of a pickle. Objects refer to each other by their position in Pickle::values, so that shared, cyclic and
/// deeply nested ones cost nothing special.
struct Value {
  enum class Kind : uint8_t {
    kOther,    // None, a number that is no int64, bytes, a namespace: nothing that weights depend on
    kBool,     // number: 0 or 1
    kInt,      // number
    kLong,     // an integer beyond 64 bits; text: its bytes, little-endian two's complement
    kText,     // text
    kTuple,    // items; also torch.Size and frozenset
    kList,     // items; also set
    kDict,     // items: key, value, key, value, ... as they were set; number: 1 for an OrderedDict
    kGlobal,   // number: a place in the allow-list
    kStorage,  // number: a place in Pickle::storages
    kTensor,   // items: storage, offset (int), shape and strides (tuples of int)
  };
  Kind kind = Kind::kOther;
  int64_t number = 0;
  std::string_view text;  // in the pickle's bytes
  std::vector<uint32_t> items;
};

/// A storage as the pickle names it, or a part of one.
struct Storage {
  std::string_view key;
  std::string_view dtype;  // a safetensors name
  int64_t elements = 0;    // of the whole storage
  int64_t offset = 0;      // of this part, in elements
  int64_t size = 0;
};

struct Pickle {
  std::vector<Value> values;
  std::vector<Storage> storages;
  uint32_t root = 0;

  const Value& at(uint32_t index) const { return values[index]; }
};

/// Reads one pickle (protocols 2 to 5) that starts at `position`, which moves behind it. Only these names are
/// understood: OrderedDict, Counter, set, frozenset, torch.Size, the typed storages, _rebuild_tensor,
/// _rebuild_tensor_v2, _rebuild_parameter and _rebuild_parameter_with_state, and argparse.Namespace (read over). Throws
/// Error with the cause: any other name, an opcode or a use of one that torch.save does not produce, a cut, or more
/// than the budget. Views in the result point into `bytes`.
Pickle read_pickle(std::string_view bytes, uint64_t& position, Budget& budget);

}  // namespace qat::archive
