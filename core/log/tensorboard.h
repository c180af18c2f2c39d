// Event files of TensorBoard: scalars and histograms by step. The files hold wall times: no run repeats their bytes.
//
// A file is a sequence of records (tensorflow/core/lib/io/record_writer.h), all numbers little-endian:
//   uint64 length, uint32 masked CRC32C of these 8 bytes, the data, uint32 masked CRC32C of the data
// and each record's data is a message Event in protobuf's encoding (tensorflow/core/util/event.proto). The few fields
// that we write are encoded by hand.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qat::log {

struct Scalar {
  std::string tag;  // "eval/top1": TensorBoard groups by what stands before the slash
  double value = 0;
};

/// A distribution: counts[i] values lie in (limits[i - 1], limits[i]], the first bin begins at the smallest one.
struct Histogram {
  std::string tag;
  double min = 0, max = 0, count = 0, sum = 0, sum_squares = 0;
  std::vector<double> limits, counts;
};

/// Of the finite values, in `bins` bins of equal width.
Histogram make_histogram(std::string tag, std::span<const float> values, int bins = 64);

struct Event {
  int64_t step = 0;
  std::vector<Scalar> scalars;  // TensorBoard keeps them as float32
  std::vector<Histogram> histograms;
};

/// Writes one new file in a folder. Not thread-safe. Errors are FileErrors that name the path.
class EventWriter {
 public:
  /// Creates the folder where there is none, and the file behind all others of the folder. `first_step`: viewers that
  /// have read later steps of the earlier files, which a resumed run computes again, forget them.
  EventWriter(const std::string& folder, int64_t first_step);
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  /// One record; it reaches the operating system before the call returns.
  void write(const Event& event);

 private:
  void append(const std::string& message);

  std::string path_;
  int file_ = -1;
  uint64_t size_ = 0;
};

/// Cuts the folder's files back to their first `events` events (the records that EventWriter's own constructor writes
/// are not counted) and to whole records; files behind the cut are removed. Returns how many events are left: fewer
/// where the files end before or are damaged.
int64_t cut_events(const std::string& folder, int64_t events);

/// Of the polynomial 0x1edc6f41 (RFC 3720, appendix B.4), and with the mask of the records.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

}  // namespace qat::log
