// Small text helpers: nearest names for error messages, human-readable sizes and times, globs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace qat {

/// Number of single-character insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`
/// (optimal string alignment distance). Bytes, not code points.
size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `name`, the first of equals, or "" when none is within a third of the name's length
/// (at least one edit). Case is ignored.
std::string nearest_match(std::string_view name, std::span<const std::string> candidates);

/// " (did you mean 'x'?)", or "" when nothing is near.
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

/// The parts with `separator` between them.
std::string join(std::span<const std::string> parts, std::string_view separator = ", ");

/// The text with control characters escaped (\n, \t, \x01), so that a message stays one line.
std::string one_line(std::string_view text);

/// 'text' for a one-line message: control characters are escaped, and more than 80 bytes are cut to end in "...".
std::string in_quotes(std::string_view text);

/// "512 B", "1.5 KiB", "3.0 GiB".
std::string format_bytes(uint64_t bytes);

/// "06:12", from one hour on "1:06:12"; "--:--" for negative or non-finite times.
std::string format_duration(double seconds);

/// Whether the whole text matches a pattern of literal characters, * (any run, also empty) and ? (any one byte).
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace qat
