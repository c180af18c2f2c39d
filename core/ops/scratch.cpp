#include "core/ops/scratch.h"

#include <algorithm>

namespace qat::ops {
namespace {

constexpr std::align_val_t kAlignment{64};

/// In front of each piece.
struct Header {
  size_t bytes;
};
constexpr size_t kHeader = 64;

struct Pool {
  ~Pool() {
    for (Header* piece : pieces) ::operator delete(piece, kAlignment);
  }
  std::vector<Header*> pieces;
};

Pool& pool() {
  thread_local Pool instance;
  return instance;
}

}  // namespace

void* take_scratch(size_t bytes) {
  std::vector<Header*>& pieces = pool().pieces;
  auto best = pieces.end();
  for (auto i = pieces.begin(); i != pieces.end(); ++i) {
    if ((*i)->bytes >= bytes && (best == pieces.end() || (*i)->bytes < (*best)->bytes)) best = i;
  }
  Header* piece = nullptr;
  if (best != pieces.end()) {
    piece = *best;
    *best = pieces.back();
    pieces.pop_back();
  } else {
    // A piece that is too small would never be taken again by what grows.
    if (!pieces.empty()) {
      const auto largest =
          std::max_element(pieces.begin(), pieces.end(), [](Header* a, Header* b) { return a->bytes < b->bytes; });
      ::operator delete(*largest, kAlignment);
      pieces.erase(largest);
    }
    piece = static_cast<Header*>(::operator new(kHeader + bytes, kAlignment));
    piece->bytes = bytes;
  }
  return reinterpret_cast<char*>(piece) + kHeader;
}

void give_scratch(void* memory) noexcept {
  if (memory == nullptr) return;
  auto* piece = reinterpret_cast<Header*>(static_cast<char*>(memory) - kHeader);
  try {
    pool().pieces.push_back(piece);
  } catch (...) {
    ::operator delete(piece, kAlignment);
  }
}

}  // namespace qat::ops
