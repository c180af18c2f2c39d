#include "core/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

namespace qat {
namespace {

/// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }
  /// Reports what the destructor cannot: a network file system may tell of a full disk only here.
  int close() { return ::close(std::exchange(value_, -1)); }

 private:
  int value_;
};

void write_all(int file, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw file_error(path, "cannot write", errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

/// Removes a temporary file unless it was renamed.
struct Temporary {
  std::string path;
  bool renamed = false;
  ~Temporary() {
    if (!renamed) ::unlink(path.c_str());
  }
};

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

}  // namespace

FileError file_error(const std::string& path, std::string_view what, int error_number) {
  return FileError(fmt::format("{}: {}: {}", path, what, std::strerror(error_number)));
}

std::string read_file(const std::string& path, uint64_t max_bytes) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) throw file_error(path, "cannot open", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw file_error(path, "cannot read", errno);
  if (S_ISDIR(status.st_mode)) throw file_error(path, "cannot read", EISDIR);
  QAT_CHECK_AS(FileError, S_ISREG(status.st_mode) || S_ISFIFO(status.st_mode),
               "{}: cannot read: neither a regular file nor a pipe", path);
  const auto too_long = [&](uint64_t size) { return size > max_bytes; };
  const auto size = S_ISREG(status.st_mode) ? static_cast<uint64_t>(status.st_size) : 0;
  std::string bytes;
  if (!too_long(size)) bytes.reserve(size);
  char buffer[1 << 16];
  while (!too_long(size) && !too_long(bytes.size())) {
    const ssize_t count = ::read(file.get(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw file_error(path, "cannot read", errno);
    if (count == 0) return bytes;
    bytes.append(buffer, static_cast<size_t>(count));
  }
  throw FileError(fmt::format("{}: cannot read: longer than the limit of {} bytes", path, max_bytes));
}

void write_file_atomic(const std::string& path, std::span<const std::string_view> pieces) {
  Temporary temporary{fmt::format("{}.tmp.{}", path, ::getpid())};
  Descriptor file(::open(temporary.path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (file.get() < 0) throw file_error(path, "cannot create a file in its folder", errno);
  for (const std::string_view piece : pieces) write_all(file.get(), piece, path);
  if (::fsync(file.get()) != 0) throw file_error(path, "cannot write", errno);
  if (file.close() != 0) throw file_error(path, "cannot write", errno);
  if (::rename(temporary.path.c_str(), path.c_str()) != 0) throw file_error(path, "cannot replace", errno);
  temporary.renamed = true;
  const Descriptor folder(::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) throw file_error(path, "cannot sync its folder", errno);
  // Some file systems cannot sync a folder and say EINVAL; the rename is then as durable as they make it.
  if (::fsync(folder.get()) != 0 && errno != EINVAL) throw file_error(path, "cannot sync its folder", errno);
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  write_file_atomic(path, std::span<const std::string_view>(&bytes, 1));
}

void keep_file(const std::string& path, const std::string& name) {
  Temporary temporary{fmt::format("{}.tmp.{}", name, ::getpid())};
  if (::unlink(temporary.path.c_str()) != 0 && errno != ENOENT) throw file_error(name, "cannot replace", errno);
  if (::link(path.c_str(), temporary.path.c_str()) != 0) {
    const bool no_links = errno == EPERM || errno == ENOTSUP || errno == EMLINK || errno == EXDEV;
    if (!no_links) throw file_error(path, "cannot keep", errno);
    write_file_atomic(name, read_file(path));
    return;
  }
  if (::rename(temporary.path.c_str(), name.c_str()) != 0) throw file_error(name, "cannot replace", errno);
  // Of two names of one file, rename removes neither.
  temporary.renamed = ::access(temporary.path.c_str(), F_OK) != 0;
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  // create_directories is silent when the path is there already, whatever it is.
  if (!error && !std::filesystem::is_directory(path)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) throw FileError(fmt::format("{}: cannot create the folder: {}", path, error.message()));
}

uint64_t hash_string(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  return hash;
}

}  // namespace qat
