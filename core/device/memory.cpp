#include "core/device/memory.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/base/error.h"

namespace qat::device {
namespace {

/// An arena's blocks: small arrays share one.
constexpr size_t kBlock = size_t{1} << 20;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

DeviceMemory::DeviceMemory(size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, std::max<size_t>(bytes, 1));
  if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
  QAT_CHECK(status == cudaSuccess, "the GPU has no {} bytes of memory left ({}): choose a smaller batch", bytes,
            cudaGetErrorString(status));
  data_.reset(static_cast<std::byte*>(data));
  check(cudaMemset(data, 0, bytes), "clearing memory");
  check(cudaDeviceSynchronize(), "clearing memory");  // which streams of ours would not wait for
}

void DeviceMemory::Free::operator()(std::byte* data) const { cudaFree(data); }

std::byte* Arena::bytes(size_t count) {
  const size_t needed = std::max(aligned(count), kAlignment);
  if (blocks_.empty() || used_ + needed > block_) {
    block_ = std::max(needed, kBlock);
    blocks_.push_back(std::make_unique<DeviceMemory>(block_));
    used_ = 0;
    size_ += static_cast<int64_t>(block_);
  }
  return blocks_.back()->data() + std::exchange(used_, used_ + needed);
}

void Arena::copy(void* to, const void* from, size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to it");
  check(cudaDeviceSynchronize(), "copying to it");
}

std::byte* State::find(const HostMemory& host) {
  if (!host) return nullptr;
  const auto [entry, is_new] = copies_.try_emplace(host.data, Copy{host.bytes});
  if (is_new) entry->second.device = arena_.make<std::byte>(host.bytes);
  QAT_CHECK(entry->second.bytes == host.bytes, "one piece of memory was given as {} and as {} bytes",
            entry->second.bytes, host.bytes);
  return entry->second.device;
}

void State::upload() { upload(false); }

void State::upload_new() { upload(true); }

void State::upload(bool only_new) {
  for (auto& [data, copy] : copies_) {
    if (only_new && !copy.is_new) continue;
    check(cudaMemcpy(copy.device, data, static_cast<size_t>(copy.bytes), cudaMemcpyHostToDevice), "copying to it");
    copy.is_new = false;
  }
  check(cudaDeviceSynchronize(), "copying to it");
}

void State::download() const {
  for (const auto& [data, copy] : copies_) {
    check(cudaMemcpy(data, copy.device, static_cast<size_t>(copy.bytes), cudaMemcpyDeviceToHost), "copying from it");
  }
}

Buffer Program::make_bytes(size_t bytes) {
  pieces_.push_back({.bytes = aligned(bytes)});
  return {static_cast<int>(pieces_.size()) - 1};
}

void Program::add(std::string name, const std::vector<Buffer>& buffers, std::function<void(const Run&)> run) {
  Operation operation{std::move(name), {}, std::move(run)};
  const int at = static_cast<int>(operations_.size());
  for (const Buffer& buffer : buffers) {
    if (!buffer) continue;
    Piece& piece = pieces_[static_cast<size_t>(buffer.index)];
    if (piece.first < 0) piece.first = at;
    piece.last = at;
    operation.buffers.push_back(buffer.index);
  }
  operations_.push_back(std::move(operation));
}

void Program::add_aside(std::string name, const std::vector<Buffer>& buffers, std::function<void(const Run&)> run) {
  add(std::move(name), buffers, std::move(run));
  operations_.back().aside = true;
}

void Program::join() {
  add("join", {}, [](const Run&) {});
  operations_.back().joins = true;
}

void Program::plan() {
  // What is used aside is in use until it is joined.
  for (int i = static_cast<int>(operations_.size()) - 1, end = i; i >= 0; --i) {
    const Operation& operation = operations_[static_cast<size_t>(i)];
    if (operation.joins) end = i;
    if (!operation.aside) continue;
    for (const int index : operation.buffers) {
      int& last = pieces_[static_cast<size_t>(index)].last;
      last = std::max(last, end);
    }
    end = i;
  }
  std::vector<size_t> order(pieces_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return pieces_[a].bytes > pieces_[b].bytes; });
  // Large ones first, each at the lowest place that is free while it is alive.
  std::vector<const Piece*> placed;
  for (const size_t index : order) {
    Piece& piece = pieces_[index];
    std::vector<const Piece*> others;
    for (const Piece* other : placed) {
      if (other->first <= piece.last && piece.first <= other->last) others.push_back(other);
    }
    std::sort(others.begin(), others.end(), [](const Piece* a, const Piece* b) { return a->offset < b->offset; });
    size_t offset = 0;
    for (const Piece* other : others) {
      if (offset + piece.bytes <= other->offset) break;
      offset = std::max(offset, other->offset + other->bytes);
    }
    piece.offset = offset;
    size_ = std::max(size_, offset + piece.bytes);
    placed.push_back(&piece);
  }
  memory_ = std::make_unique<DeviceMemory>(size_);
}

int64_t Program::kept_size() const {
  auto sum = static_cast<size_t>(kept_elsewhere_);
  for (const Piece& piece : pieces_) sum += piece.first < forward_ && piece.last >= forward_ ? piece.bytes : 0;
  return static_cast<int64_t>(sum);
}

void Program::run(const Lanes& lanes) const {
  bool beside = false;
  const auto join = [&] {
    if (std::exchange(beside, false)) behind_aside_.hold(lanes.stream);
  };
  const auto finish_aside = [&] {
    behind_aside_.record(lanes.aside);
    beside = true;
  };
  for (size_t i = 0; i < operations_.size(); ++i) {
    const bool aside = operations_[i].aside;
    if (aside || operations_[i].joins) join();
    if (aside) {
      before_aside_.record(lanes.stream);
      before_aside_.hold(lanes.aside);
    }
    try {
      operations_[i].run(Run(*this, static_cast<int>(i), aside ? lanes.aside : lanes.stream));
    } catch (...) {
      if (aside) finish_aside();
      join();  // what is in the lanes already
      throw;
    }
    if (aside) finish_aside();
  }
  join();
}

std::byte* Program::Run::find(Buffer buffer) const {
  if (!buffer) return nullptr;
  const Operation& operation = program_.operations_[static_cast<size_t>(operation_)];
  const bool named =
      std::find(operation.buffers.begin(), operation.buffers.end(), buffer.index) != operation.buffers.end();
  QAT_CHECK(named, "{}: touches memory that it did not name", operation.name);
  return program_.memory_->data() + program_.pieces_[static_cast<size_t>(buffer.index)].offset;
}

}  // namespace qat::device
