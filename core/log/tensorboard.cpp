#include "core/log/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "core/base/files.h"

namespace qat::log {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "records are written as numbers lie in memory");

constexpr size_t kLengthBytes = 8, kChecksumBytes = 4;
/// That the constructor writes in front of the events.
constexpr int64_t kLeadingRecords = 2;

template <class Number>
std::string bytes_of(Number number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

/// Fields of protobuf's encoding (protobuf.dev/programming-guides/encoding): a key, number << 3 | type, and the value.
class Message {
 public:
  Message& integer(int field, uint64_t value) {
    key(field, 0);
    varint(value);
    return *this;
  }
  Message& real(int field, double value) {
    key(field, 1);
    bytes_ += bytes_of(value);
    return *this;
  }
  Message& real32(int field, float value) {
    key(field, 5);
    bytes_ += bytes_of(value);
    return *this;
  }
  /// Also of other messages.
  Message& text(int field, std::string_view value) {
    key(field, 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& packed(int field, const std::vector<double>& values) {
    return text(field, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double)});
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(int field, int type) { varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(type)); }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

/// An Event with what all have: wall_time and step (0 is not written).
Message event_at(int64_t step) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  Message event;
  event.real(1, std::chrono::duration<double>(now).count());
  if (step > 0) event.integer(2, static_cast<uint64_t>(step));
  return event;
}

std::string summary_of(const Event& event) {
  Message summary;
  for (const Scalar& scalar : event.scalars) {
    summary.text(1, Message().text(1, scalar.tag).real32(2, static_cast<float>(scalar.value)).bytes());
  }
  for (const Histogram& h : event.histograms) {
    Message histogram;
    histogram.real(1, h.min).real(2, h.max).real(3, h.count).real(4, h.sum).real(5, h.sum_squares);
    histogram.packed(6, h.limits).packed(7, h.counts);
    summary.text(1, Message().text(1, h.tag).text(5, histogram.bytes()).bytes());
  }
  return summary.bytes();
}

constexpr std::string_view kPrefix = "events.out.tfevents.";

/// In the order in which they were written and TensorBoard reads them.
std::vector<std::string> event_files(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename().string().starts_with(kPrefix)) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

/// The end of the record at `at`; 0 when there is none, whole and undamaged.
size_t end_of_record(std::string_view bytes, size_t at) {
  const auto checksum = [&](size_t offset) {
    uint32_t value = 0;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
  };
  if (bytes.size() - at < kLengthBytes + 2 * kChecksumBytes) return 0;
  uint64_t length = 0;
  std::memcpy(&length, bytes.data() + at, sizeof length);
  if (checksum(at + kLengthBytes) != masked_crc32c(bytes.substr(at, kLengthBytes))) return 0;
  const size_t data = at + kLengthBytes + kChecksumBytes;
  if (length > bytes.size() - data - kChecksumBytes) return 0;
  if (checksum(data + length) != masked_crc32c(bytes.substr(data, length))) return 0;
  return data + length + kChecksumBytes;
}

}  // namespace

Histogram make_histogram(std::string tag, std::span<const float> values, int bins) {
  Histogram h{.tag = std::move(tag)};
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const float value : values) {
    if (!std::isfinite(value)) continue;
    const double x = value;
    low = std::min(low, x), high = std::max(high, x);
    h.count += 1, h.sum += x, h.sum_squares += x * x;
  }
  if (h.count == 0) return h;
  h.min = low, h.max = high;
  if (low == high) {
    h.limits = {high}, h.counts = {h.count};
    return h;
  }
  const double width = (high - low) / bins;
  h.counts.assign(static_cast<size_t>(bins), 0);
  for (int i = 1; i <= bins; ++i) h.limits.push_back(i < bins ? low + width * i : high);
  for (const float value : values) {
    if (!std::isfinite(value)) continue;
    const auto limit = std::ranges::lower_bound(h.limits, static_cast<double>(value));
    h.counts[static_cast<size_t>(limit - h.limits.begin())] += 1;
  }
  return h;
}

EventWriter::EventWriter(const std::string& folder, int64_t first_step) {
  make_directories(folder);
  const std::vector<std::string> earlier = event_files(folder);
  // Numbered, not dated as TensorFlow's: a run that is resumed twice in a second keeps the order.
  int64_t number = 1;
  if (!earlier.empty()) number = std::atoll(fs::path(earlier.back()).filename().c_str() + kPrefix.size()) + 1;
  path_ = fmt::format("{}/{}{:010}.qat", folder, kPrefix, number);
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) throw file_error(path_, "cannot open", errno);
  try {
    append(event_at(0).text(3, "brain.Event:2").bytes());
    constexpr uint64_t kStart = 1;
    append(event_at(first_step).text(7, Message().integer(1, kStart).bytes()).bytes());
  } catch (...) {
    ::close(file_);
    throw;
  }
}

EventWriter::~EventWriter() { ::close(file_); }

void EventWriter::write(const Event& event) { append(event_at(event.step).text(5, summary_of(event)).bytes()); }

void EventWriter::append(const std::string& message) {
  const std::string length = bytes_of<uint64_t>(message.size());
  const std::string record = length + bytes_of(masked_crc32c(length)) + message + bytes_of(masked_crc32c(message));
  size_t written = 0;
  while (written < record.size()) {
    const ssize_t count = ::write(file_, record.data() + written, record.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      // Readers stop for good at half a record that others follow.
      [[maybe_unused]] const int cut = ::ftruncate(file_, static_cast<off_t>(size_));
      throw file_error(path_, "cannot write", error);
    }
    written += static_cast<size_t>(count);
  }
  size_ += record.size();
}

int64_t cut_events(const std::string& folder, int64_t events) {
  int64_t left = 0;
  bool ended = false;
  for (const std::string& file : event_files(folder)) {
    size_t end = 0;
    if (!ended) {
      const std::string bytes = read_file(file);
      for (int64_t records = 0; !ended; ++records) {
        const bool event = records >= kLeadingRecords;
        ended = event && left == events;
        const size_t next = ended ? 0 : end_of_record(bytes, end);
        if (next == 0) break;
        end = next;
        left += event;
      }
      // Behind damage there may be more events, but not all of those in between.
      ended = ended || end != bytes.size();
    }
    std::error_code error;
    end == 0 ? static_cast<void>(fs::remove(file, error)) : fs::resize_file(file, end, error);
    if (error) throw FileError(fmt::format("{}: cannot cut: {}", file, error.message()));
  }
  return left;
}

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < made.size(); ++i) {
      uint32_t remainder = i;
      for (int bit = 0; bit < 8; ++bit) remainder = remainder >> 1 ^ (remainder & 1 ? 0x82f63b78U : 0U);  // reflected
      made[i] = remainder;
    }
    return made;
  }();
  uint32_t state = ~0U;
  for (const char c : bytes) state = state >> 8 ^ table[(state ^ static_cast<unsigned char>(c)) & 0xff];
  return ~state;
}

uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8U; }

}  // namespace qat::log
