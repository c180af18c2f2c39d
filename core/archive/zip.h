// Zip archives of stored (uncompressed) records, in memory. Format: PKWARE APPNOTE.TXT 6.3.10.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "core/archive/budget.h"

namespace qat::archive {

/// The records of a zip archive. Nothing is extracted: a record is a view of the archive's bytes.
class Zip {
 public:
  /// Reads the central directory. Zip64 is understood. Throws Error with the cause when an offset or size leaves the
  /// file, records overlap, a name comes twice, or the archive is split over several files.
  Zip(std::string_view bytes, Budget& budget);

  bool contains(std::string_view name) const { return records_.count(name) != 0; }

  /// The record's bytes. Throws Error for an absent, compressed, encrypted or (by its CRC-32) damaged one.
  std::string_view read(std::string_view name) const;

  /// The folder of the record that comes first in the directory, without its slash; "" for a record outside folders.
  std::string_view first_folder() const;

 private:
  struct Record {
    std::string_view data;
    uint32_t crc = 0;
    uint16_t method = 0;
    bool encrypted = false;
  };
  std::map<std::string_view, Record> records_;
  std::string_view first_name_;
};

struct ZipRecord {
  std::string name;
  std::string_view data;
};

/// A zip archive with these records, stored, each record's data at a multiple of 64 bytes. Equal input, equal bytes.
/// Throws Error when it would need zip64: 4 GiB or 65535 records.
std::string write_zip(std::span<const ZipRecord> records);

}  // namespace qat::archive
