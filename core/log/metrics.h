// metrics.jsonl: one JSON object a line, without times or dates, so that equal runs write equal bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace qat::log {

/// Appends to one file; each line reaches the operating system before write() returns. Not thread-safe. Errors are
/// FileErrors that name the path.
class MetricsWriter {
 public:
  /// Opens or creates the file; a last line without its end (a killed writer's) is cut off.
  explicit MetricsWriter(std::string path);
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;

  /// The keys keep their order; a double that is not finite becomes null. Throws Error unless `line` is an object.
  void write(const nlohmann::ordered_json& line);

  /// Also tells `listener` each further line, once it is written. One listener.
  void tell(std::function<void(const nlohmann::ordered_json& line)> listener) { listener_ = std::move(listener); }

  /// Bytes of the file, forced to disk first: a checkpoint that names them finds them again after a power failure.
  uint64_t offset();

  /// Cuts the file back to what offset() returned, for resuming. Throws when the file is shorter, or when a line does
  /// not end there.
  void truncate_to(uint64_t offset);

 private:
  std::string path_;
  int file_ = -1;
  uint64_t size_ = 0;
  std::function<void(const nlohmann::ordered_json& line)> listener_;
};

/// All whole lines of a metrics.jsonl; none where there is no file. Throws FileError with the number of a line that is
/// not a JSON object.
std::vector<nlohmann::ordered_json> read_metrics(const std::string& path);

}  // namespace qat::log
