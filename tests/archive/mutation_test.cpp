// Goldens with random damage: every reader answers with tensors or a FileError; sanitizers see what it must not do.
#include <gtest/gtest.h>

#include <iostream>
#include <random>

#include "core/archive/weights.h"
#include "core/archive/zip.h"
#include "tests/archive/golden_files.h"

namespace qat::archive {
namespace {

constexpr int kMutationsPerFile = 1500;
constexpr uint64_t kLargest = 64 << 10;

/// Reads every byte of every tensor; whether the file was accepted.
bool survives(std::string bytes, const std::string& source) {
  try {
    const WeightsFile file = WeightsFile::parse(std::move(bytes), source);
    std::string all;
    for (const TensorView& tensor : file.tensors()) {
      if (tensor.bytes > 0) all.assign(static_cast<const char*>(tensor.data), tensor.bytes);
    }
    file.state_dict();
    return true;
  } catch (const FileError&) {
    return false;
  }
}

using Random = std::mt19937_64;

/// One to four bytes changed, or the rest cut off, or a run of bytes repeated.
std::string damaged(std::string bytes, Random& random) {
  if (bytes.empty()) return bytes;
  const size_t at = random() % bytes.size();
  switch (random() % 8) {
    case 0:
      return bytes.substr(0, at);
    case 1:
      return bytes.insert(at, bytes.substr(at, random() % 32));
    default:
      for (uint64_t i = random() % 4 + 1; i > 0; --i) bytes[random() % bytes.size()] = static_cast<char>(random());
      return bytes;
  }
}

/// Random bytes seldom hit what matters: half of the damage goes to the first part, where headers and pickles are.
std::string damaged_somewhere(const std::string& bytes, Random& random) {
  const size_t head = std::min<size_t>(bytes.size(), 1200);
  if (random() % 2 == 0) return damaged(bytes, random);
  return damaged(bytes.substr(0, head), random) + bytes.substr(head);
}

/// A zip's CRCs would hide its pickle from damage: the archive is written anew around the damaged one.
std::string with_damaged_pickle(const std::string& bytes, const std::vector<std::string>& names, Random& random) {
  Budget budget(bytes.size());
  const Zip zip(bytes, budget);
  const std::string pickle_name = std::string(zip.first_folder()) + "/data.pkl";
  const std::string pickle = damaged(std::string(zip.read(pickle_name)), random);
  std::vector<ZipRecord> records{{pickle_name, pickle}};
  for (const std::string& name : names) {
    const std::string full = std::string(zip.first_folder()) + "/" + name;
    if (zip.contains(full)) records.push_back({full, zip.read(full)});
  }
  return write_zip(records);
}

TEST(Mutation, DamagedGoldensNeverCrash) {
  std::vector<std::string> names{"byteorder"};
  for (int i = 0; i < 64; ++i) names.push_back("data/" + std::to_string(i));
  Random random(20260101);
  int files = 0, mutations = 0, accepted = 0;
  for (const golden::Case& c : golden::cases()) {
    const std::string bytes = read_file(c.path, kLargest);
    const bool is_zip = c.expected.at("action") == "load" && bytes.starts_with("PK");
    for (int i = 0; i < kMutationsPerFile; ++i) {
      const bool inside = is_zip && random() % 2 == 0;
      accepted += survives(inside ? with_damaged_pickle(bytes, names, random) : damaged_somewhere(bytes, random), "f");
      ++mutations;
    }
    ++files;
  }
  std::cout << mutations << " mutations of " << files << " files, " << accepted << " accepted\n";
  EXPECT_GT(files, 0);
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, mutations);
}

}  // namespace
}  // namespace qat::archive
