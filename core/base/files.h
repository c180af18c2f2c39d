// Reading and writing whole files so that a reader never sees half of one. All errors are FileError: "path: what: why".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/base/error.h"

namespace qat {

/// "path: what: the text of errno".
FileError file_error(const std::string& path, std::string_view what, int error_number);

inline constexpr uint64_t kMaxFileBytes = uint64_t{1} << 36;

/// The bytes of a regular file or pipe. Throws FileError when it is missing, a directory or a device, unreadable, or
/// longer than `max_bytes`.
std::string read_file(const std::string& path, uint64_t max_bytes = kMaxFileBytes);

/// Replaces `path` by the pieces in order: written to `<path>.tmp.<pid>` beside it, synced, renamed, the folder synced.
/// After a failure (full disk, no permission, a path under a file) the temporary is gone and an old file is as it was;
/// after kill -9 at any instant `path` holds either all old or all new bytes.
void write_file_atomic(const std::string& path, std::span<const std::string_view> pieces);
void write_file_atomic(const std::string& path, std::string_view bytes);

/// Makes `name` another name of the file `path`, as it is now: replacing `path` later leaves `name` the old bytes. A
/// hard link, or a copy on file systems without them; a former `name` is replaced atomically. Throws FileError.
void keep_file(const std::string& path, const std::string& name);

/// Creates the folder and its missing parents; nothing to do when it exists.
void make_directories(const std::string& path);

/// FNV-1a, 64 bits. For identity, not for security.
uint64_t hash_string(std::string_view text);

}  // namespace qat
