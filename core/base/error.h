// Error types of the whole system. Libraries throw, never print and never exit; main prints one line.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <string>

namespace qat {

/// What went wrong, in one line: what was expected, what was found, where, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A mistake of the command line (exit code 2).
class UsageError : public Error {
 public:
  using Error::Error;
};

/// A mistake in a config; the message starts with file:line:column (exit code 2).
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A file that cannot be read, written or understood; the message starts with its path.
class FileError : public Error {
 public:
  using Error::Error;
};

/// A model that cannot be traced or quantized; the message names the node and its operator.
class GraphError : public Error {
 public:
  using Error::Error;
};

/// A checkpoint that does not fit: all missing, unexpected and mismatched names.
class CheckpointError : public Error {
 public:
  using Error::Error;
};

/// A model that a format cannot hold: the first unsupported node and all others.
class ExportError : public Error {
 public:
  using Error::Error;
};

}  // namespace qat

/// Throws qat::Error with a fmt-style message when a caller's promise is broken.
#define QAT_CHECK(condition, ...) QAT_CHECK_AS(::qat::Error, condition, __VA_ARGS__)

/// The same with an error type of choice.
#define QAT_CHECK_AS(type, condition, ...)    \
  do {                                        \
    if (!(condition)) [[unlikely]]            \
      throw type(::fmt::format(__VA_ARGS__)); \
  } while (false)
