// Exporters: IntegerModel -> files that runtimes load, and the readers of those files that verify uses.
#pragma once

#include <string>

#include "core/integer/integer_model.h"
#include "core/registry/registry.h"

namespace qat::exporter {

/// One file format.
struct Format {
  std::string extension;  // ".safetensors"; of the files that a run writes
  /// Writes the file atomically; equal models give equal bytes. Throws ExportError or FileError.
  void (*write)(const integer::IntegerModel& model, const std::string& path);
  /// Reads a file back as the model that it holds. Throws FileError.
  integer::IntegerModel (*read)(const std::string& path);
};

/// Formats by name: "safetensors", "onnx-qdq", "onnx-qoperator".
Registry<Format>& formats();

/// The format that reads a file, by its extension; all ONNX forms have one reader. Throws FileError naming the known
/// ones.
const Format& format_of(const std::string& path);

}  // namespace qat::exporter
