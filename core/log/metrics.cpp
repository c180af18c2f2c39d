#include "core/log/metrics.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "core/base/files.h"

namespace qat::log {
namespace {

/// The length up to and including the last newline.
uint64_t end_of_last_line(int file, uint64_t size, const std::string& path) {
  char block[4096];
  while (size > 0) {
    const uint64_t start = size > sizeof block ? size - sizeof block : 0;
    const ssize_t count = ::pread(file, block, size - start, static_cast<off_t>(start));
    if (count < 0) throw file_error(path, "cannot read", errno);
    const size_t newline = std::string_view(block, static_cast<size_t>(count)).rfind('\n');
    if (newline != std::string_view::npos) return start + newline + 1;
    size = start;
  }
  return 0;
}

}  // namespace

MetricsWriter::MetricsWriter(std::string path) : path_(std::move(path)) {
  file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) throw file_error(path_, "cannot open", errno);
  try {
    struct stat status {};
    if (::fstat(file_, &status) != 0) throw file_error(path_, "cannot read", errno);
    QAT_CHECK_AS(FileError, S_ISREG(status.st_mode), "{}: cannot open: not a regular file", path_);
    const auto found = static_cast<uint64_t>(status.st_size);
    size_ = end_of_last_line(file_, found, path_);
    if (size_ != found && ::ftruncate(file_, static_cast<off_t>(size_)) != 0)
      throw file_error(path_, "cannot cut", errno);
  } catch (...) {
    ::close(file_);
    throw;
  }
}

MetricsWriter::~MetricsWriter() { ::close(file_); }

void MetricsWriter::write(const nlohmann::ordered_json& line) {
  QAT_CHECK(line.is_object(), "metrics: expected a JSON object, found {}", line.type_name());
  using Handler = nlohmann::ordered_json::error_handler_t;
  const std::string text = line.dump(-1, ' ', false, Handler::replace) + "\n";
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = ::write(file_, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      // Half a line must not stay before the next one; if this fails too, opening the file again cuts it.
      [[maybe_unused]] const int cut = ::ftruncate(file_, static_cast<off_t>(size_));
      throw file_error(path_, "cannot write", error);
    }
    written += static_cast<size_t>(count);
  }
  size_ += text.size();
  if (listener_) listener_(line);
}

uint64_t MetricsWriter::offset() {
  if (::fsync(file_) != 0) throw file_error(path_, "cannot write", errno);
  return size_;
}

void MetricsWriter::truncate_to(uint64_t offset) {
  QAT_CHECK_AS(FileError, offset <= size_, "{}: {} bytes, but the checkpoint was written at byte {}", path_, size_,
               offset);
  QAT_CHECK_AS(FileError, end_of_last_line(file_, offset, path_) == offset,
               "{}: no line ends at byte {}, where the checkpoint was written", path_, offset);
  if (::ftruncate(file_, static_cast<off_t>(offset)) != 0) throw file_error(path_, "cannot cut", errno);
  size_ = offset;
}

std::vector<nlohmann::ordered_json> read_metrics(const std::string& path) {
  std::vector<nlohmann::ordered_json> lines;
  if (!std::filesystem::exists(path)) return lines;
  const std::string text = read_file(path);
  size_t at = 0;
  for (size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', at)) {
    nlohmann::ordered_json line =
        nlohmann::ordered_json::parse(text.begin() + static_cast<std::ptrdiff_t>(at),
                                      text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    QAT_CHECK_AS(FileError, line.is_object(), "{}: line {} is not a JSON object", path, lines.size() + 1);
    lines.push_back(std::move(line));
    at = end + 1;
  }
  return lines;
}

}  // namespace qat::log
