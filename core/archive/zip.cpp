#include "core/archive/zip.h"

#include <zlib.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/archive/bytes.h"
#include "core/base/text.h"

namespace qat::archive {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kCentralHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kEnd64Locator = 0x07064b50;
constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
constexpr uint64_t kMax16 = 0xffff, kMax32 = 0xffffffff;
constexpr uint64_t kRecordMemory = 256;  // a map's node and an interval, rounded up
constexpr uint64_t kAlignment = 64;
constexpr uint16_t kPaddingField = 0x4246;  // what PyTorch uses, "FB"

/// Whether [offset, offset + size) lies in `total` bytes.
bool inside(uint64_t offset, uint64_t size, uint64_t total) { return offset <= total && size <= total - offset; }

bool has_signature(std::string_view bytes, uint64_t offset, uint32_t signature) {
  return inside(offset, 4, bytes.size()) && get_number(bytes, offset, 4) == signature;
}

struct Directory {
  uint64_t offset, size, count;
};

/// The end record is last but for a comment whose length it holds.
uint64_t find_end(std::string_view bytes) {
  for (uint64_t comment = 0; comment <= kMax16 && kEndBytes + comment <= bytes.size(); ++comment) {
    const uint64_t at = bytes.size() - kEndBytes - comment;
    if (has_signature(bytes, at, kEnd) && get_number(bytes, at + 20, 2) == comment) return at;
  }
  throw Error("a zip archive that is cut short: it has no central directory");
}

Directory find_directory(std::string_view bytes) {
  const uint64_t end = find_end(bytes);
  const auto field = [&](uint64_t offset, int width) { return get_number(bytes, end + offset, width); };
  Directory directory{field(16, 4), field(12, 4), field(10, 2)};
  uint64_t limit = end;
  QAT_CHECK(field(4, 2) == 0 || field(4, 2) == kMax16, "a zip archive that is split over several files");
  if (directory.offset == kMax32 || directory.size == kMax32 || directory.count == kMax16) {
    QAT_CHECK(end >= kLocatorBytes && has_signature(bytes, end - kLocatorBytes, kEnd64Locator),
              "a damaged zip archive: its zip64 directory is missing");
    limit = get_number(bytes, end - kLocatorBytes + 8, 8);
    QAT_CHECK(inside(limit, kEnd64Bytes, end - kLocatorBytes) && has_signature(bytes, limit, kEnd64),
              "a damaged zip archive: its zip64 directory is missing");
    directory = {get_number(bytes, limit + 48, 8), get_number(bytes, limit + 40, 8), get_number(bytes, limit + 32, 8)};
  }
  QAT_CHECK(inside(directory.offset, directory.size, limit),
            "a damaged zip archive: its directory of {} bytes at {} is outside the {} bytes before its end",
            directory.size, directory.offset, limit);
  QAT_CHECK(directory.count <= directory.size / kCentralBytes,
            "a damaged zip archive: its directory of {} bytes cannot hold {} records", directory.size, directory.count);
  return directory;
}

/// Replaces the fields that are all ones by the 64-bit ones of the zip64 extra field, which has only these.
void apply_zip64(std::string_view extra, uint64_t& size, uint64_t& stored, uint64_t& offset) {
  while (extra.size() >= 4) {
    const uint64_t id = get_number(extra, 0, 2), length = get_number(extra, 2, 2);
    QAT_CHECK(length <= extra.size() - 4, "a damaged zip archive: an extra field is cut short");
    if (id == 1) {
      std::string_view field = extra.substr(4, length);
      for (uint64_t* value : {&size, &stored, &offset}) {
        if (*value != kMax32) continue;
        QAT_CHECK(field.size() >= 8, "a damaged zip archive: a zip64 field is cut short");
        *value = get_number(field, 0, 8);
        field.remove_prefix(8);
      }
      return;
    }
    extra.remove_prefix(4 + length);
  }
}

}  // namespace

Zip::Zip(std::string_view bytes, Budget& budget) {
  const Directory directory = find_directory(bytes);
  budget.charge(kRecordMemory * directory.count);
  std::vector<std::pair<uint64_t, uint64_t>> used;
  uint64_t at = directory.offset;
  uint64_t left = directory.size;
  for (uint64_t i = 0; i < directory.count; ++i) {
    QAT_CHECK(left >= kCentralBytes && has_signature(bytes, at, kCentralHeader),
              "a damaged zip archive: record {} of its directory is missing", i);
    const auto field = [&](uint64_t offset, int width) { return get_number(bytes, at + offset, width); };
    const uint64_t name_size = field(28, 2), extra_size = field(30, 2), comment_size = field(32, 2);
    const uint64_t entry = kCentralBytes + name_size + extra_size + comment_size;
    QAT_CHECK(entry <= left, "a damaged zip archive: record {} of its directory is cut short", i);
    const std::string_view name = bytes.substr(at + kCentralBytes, name_size);
    uint64_t stored = field(20, 4), size = field(24, 4), offset = field(42, 4);
    apply_zip64(bytes.substr(at + kCentralBytes + name_size, extra_size), size, stored, offset);

    const auto damaged = [&](const char* what) {
      return Error(fmt::format("a damaged zip archive: record {} {}", in_quotes(name), what));
    };
    if (!inside(offset, kLocalBytes, directory.offset)) throw damaged("lies outside the file");
    if (!has_signature(bytes, offset, kLocalHeader)) throw damaged("has no header");
    const uint64_t local = kLocalBytes + get_number(bytes, offset + 26, 2) + get_number(bytes, offset + 28, 2);
    if (!inside(offset, local, directory.offset)) throw damaged("lies outside the file");
    if (!inside(offset + local, stored, directory.offset)) throw damaged("lies outside the file");
    if (bytes.substr(offset + kLocalBytes, get_number(bytes, offset + 26, 2)) != name) {
      throw damaged("has another name in its header");
    }
    const auto method = static_cast<uint16_t>(field(10, 2));
    if (method == 0 && stored != size) throw damaged("has two sizes");
    const Record record{bytes.substr(offset + local, stored), static_cast<uint32_t>(field(16, 4)), method,
                        (field(8, 2) & 1) != 0};
    if (!records_.try_emplace(name, record).second) throw damaged("comes twice");
    if (i == 0) first_name_ = name;
    used.emplace_back(offset, offset + local + stored);
    at += entry;
    left -= entry;
  }
  std::sort(used.begin(), used.end());
  for (size_t i = 1; i < used.size(); ++i) {
    QAT_CHECK(used[i - 1].second <= used[i].first, "a damaged zip archive: two records overlap at byte {}",
              used[i].first);
  }
}

std::string_view Zip::read(std::string_view name) const {
  const auto found = records_.find(name);
  QAT_CHECK(found != records_.end(), "a zip archive without the record {}", in_quotes(name));
  const Record& record = found->second;
  QAT_CHECK(!record.encrypted, "record {} is encrypted", in_quotes(name));
  QAT_CHECK(record.method == 0, "record {} is compressed; expected an archive of stored records, as torch.save writes",
            in_quotes(name));
  const uint64_t crc = crc32_z(0, reinterpret_cast<const Bytef*>(record.data.data()), record.data.size());
  QAT_CHECK(crc == record.crc, "record {} is damaged: its CRC-32 is {:08x}, expected {:08x}", in_quotes(name), crc,
            record.crc);
  return record.data;
}

std::string_view Zip::first_folder() const {
  const size_t slash = first_name_.find('/');
  return slash == std::string_view::npos ? std::string_view() : first_name_.substr(0, slash);
}

std::string write_zip(std::span<const ZipRecord> records) {
  uint64_t total = kEndBytes;
  for (const ZipRecord& record : records) {
    QAT_CHECK(record.name.size() <= kMax16, "cannot write a zip record with a name of {} bytes", record.name.size());
    total += kLocalBytes + kCentralBytes + 2 * (record.name.size() + kAlignment) + record.data.size();
  }
  QAT_CHECK(total < kMax32 && records.size() < kMax16,
            "cannot write a zip archive of {} bytes and {} records: expected below 4 GiB and 65535; write .safetensors",
            total, records.size());
  std::string file, directory;
  file.reserve(total);
  for (const ZipRecord& record : records) {
    const uint64_t offset = file.size();
    const uint64_t start = offset + kLocalBytes + record.name.size() + 4;
    const uint64_t padding = (kAlignment - start % kAlignment) % kAlignment;
    std::string common;  // what both headers hold: version, flags (UTF-8), method, time, date (1980-01-01), ...
    put_number(common, 20, 2);
    put_number(common, 0x800, 2);
    put_number(common, 0, 2);
    put_number(common, 0, 2);
    put_number(common, 0x21, 2);
    put_number(common, crc32_z(0, reinterpret_cast<const Bytef*>(record.data.data()), record.data.size()), 4);
    put_number(common, record.data.size(), 4);
    put_number(common, record.data.size(), 4);
    put_number(common, record.name.size(), 2);
    put_number(file, kLocalHeader, 4);
    file += common;
    put_number(file, 4 + padding, 2);
    file += record.name;
    put_number(file, kPaddingField, 2);
    put_number(file, padding, 2);
    file.append(padding, 'Z');
    file += record.data;
    put_number(directory, kCentralHeader, 4);
    put_number(directory, 20, 2);
    directory += common;
    directory.append(12, '\0');  // no extra field, no comment, first disk, no attributes
    put_number(directory, offset, 4);
    directory += record.name;
  }
  const uint64_t offset = file.size();
  file += directory;
  put_number(file, kEnd, 4);
  put_number(file, 0, 4);
  put_number(file, records.size(), 2);
  put_number(file, records.size(), 2);
  put_number(file, directory.size(), 4);
  put_number(file, offset, 4);
  put_number(file, 0, 2);
  return file;
}

}  // namespace qat::archive
