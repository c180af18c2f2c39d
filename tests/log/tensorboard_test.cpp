#include "core/log/tensorboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>

#include "core/base/files.h"
#include "tests/support/events.h"

namespace qat::log {
namespace {

namespace fs = std::filesystem;
using namespace test;

class TensorBoard : public testing::Test {
 protected:
  TensorBoard()
      : folder_(fmt::format("{}qat_events_{}_{}", testing::TempDir(), getpid(),
                            testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(folder_);
  }
  ~TensorBoard() override { fs::remove_all(folder_); }

  std::string file(int number) const { return fmt::format("{}/events.out.tfevents.{:010}.qat", folder_, number); }

  /// The steps of all events in the folder, file by file.
  std::vector<std::vector<int64_t>> steps() const {
    std::vector<std::vector<int64_t>> all;
    for (int i = 1; fs::exists(file(i)); ++i) {
      all.emplace_back();
      for (const std::string& record : records_of(file(i))) {
        const Fields event = fields_of(record);
        if (event.count(5) == 1) all.back().push_back(step_of(event));
      }
    }
    return all;
  }

  void write_steps(std::initializer_list<int64_t> steps) const {
    EventWriter writer(folder_, *steps.begin());
    for (const int64_t step : steps) writer.write({.step = step, .scalars = {{"x", 0.5}}, .histograms = {}});
  }

  std::string folder_;
};

TEST(Crc32c, GivesTheNumbersOfItsDefinition) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);  // the catalogue of CRC algorithms' check value
  // RFC 3720, appendix B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  std::string rising(32, '\0');
  std::iota(rising.begin(), rising.end(), '\0');
  EXPECT_EQ(crc32c(rising), 0x46dd794eU);
  EXPECT_EQ(crc32c(std::string(rising.rbegin(), rising.rend())), 0x113fdb5cU);
  EXPECT_EQ(crc32c(""), 0U);
  for (size_t size = 0; size < 70; ++size) {
    std::string bytes;
    for (size_t i = 0; i < size; ++i) bytes += static_cast<char>(i * i * 31 + size);
    EXPECT_EQ(crc32c(bytes), crc_by_division(bytes)) << size;
    EXPECT_EQ(masked_crc32c(bytes), mask_of(crc_by_division(bytes))) << size;
  }
}

TEST_F(TensorBoard, AFileBeginsAsTensorFlowsDo) {
  EventWriter(folder_, 7);
  const std::string bytes = read_file(file(1));
  // Length 24 and its checksum: what every event file of TensorFlow begins with.
  EXPECT_EQ(bytes.substr(0, 12), std::string("\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22", 12));
  const std::vector<std::string> records = records_of(file(1));
  ASSERT_EQ(records.size(), 2U);
  const Fields version = fields_of(records[0]), start = fields_of(records[1]);
  EXPECT_EQ(field(version, 3), "brain.Event:2");
  EXPECT_GT(real(version, 1), 1.7e9);  // seconds since 1970
  EXPECT_EQ(step_of(start), 7);
  const Fields session = fields_of(field(start, 7));
  EXPECT_EQ(number_at<int64_t>(field(session, 1), 0), 1);  // SessionLog.START
}

TEST_F(TensorBoard, EventsHoldScalarsAndHistograms) {
  Histogram histogram{.tag = "weights/conv1", .min = -1, .max = 2, .count = 5, .sum = 3.5, .sum_squares = 7.25};
  histogram.limits = {0, 2};
  histogram.counts = {2, 3};
  {
    EventWriter writer(folder_, 0);
    writer.write({.step = 300, .scalars = {{"eval/top1", 0.1}, {"eval/loss", -2}}, .histograms = {histogram}});
    writer.write({});
  }
  const std::vector<std::string> records = records_of(file(1));
  ASSERT_EQ(records.size(), 4U);
  const Fields event = fields_of(records[2]);
  EXPECT_EQ(step_of(event), 300);
  const Fields summary = fields_of(field(event, 5));
  ASSERT_EQ(summary.count(1), 3U);
  auto value = summary.find(1);
  const Fields top1 = fields_of((value++)->second), loss = fields_of((value++)->second), w = fields_of(value->second);
  EXPECT_EQ(field(top1, 1), "eval/top1");
  EXPECT_EQ(number_at<float>(field(top1, 2), 0), 0.1F);
  EXPECT_EQ(field(loss, 1), "eval/loss");
  EXPECT_EQ(number_at<float>(field(loss, 2), 0), -2.0F);
  EXPECT_EQ(field(w, 1), "weights/conv1");
  const Fields h = fields_of(field(w, 5));
  EXPECT_EQ(real(h, 1), -1);
  EXPECT_EQ(real(h, 2), 2);
  EXPECT_EQ(real(h, 3), 5);
  EXPECT_EQ(real(h, 4), 3.5);
  EXPECT_EQ(real(h, 5), 7.25);
  EXPECT_THAT(reals(h, 6), testing::ElementsAre(0, 2));
  EXPECT_THAT(reals(h, 7), testing::ElementsAre(2, 3));
  EXPECT_EQ(field(fields_of(records[3]), 5), "");
}

TEST(Histogram, CountsEveryFiniteValueOnce) {
  const float infinite = std::numeric_limits<float>::infinity();
  const std::vector<float> values{-1, 3, 0, -infinite, 1, infinite, 1.5F, std::numeric_limits<float>::quiet_NaN()};
  const Histogram h = make_histogram("x", values, 4);
  EXPECT_EQ(h.tag, "x");
  EXPECT_EQ(h.min, -1);
  EXPECT_EQ(h.max, 3);
  EXPECT_EQ(h.count, 5);
  EXPECT_EQ(h.sum, 4.5);
  EXPECT_EQ(h.sum_squares, 1 + 9 + 0 + 1 + 2.25);
  EXPECT_THAT(h.limits, testing::ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(h.counts, testing::ElementsAre(2, 1, 1, 1));  // a limit belongs to the bin below it
  const std::vector<float> same{2, 2};
  EXPECT_THAT(make_histogram("x", same).limits, testing::ElementsAre(2));
  EXPECT_THAT(make_histogram("x", same).counts, testing::ElementsAre(2));
  EXPECT_EQ(make_histogram("x", {}).count, 0);
}

TEST_F(TensorBoard, CutsToTheEventsOfACheckpoint) {
  write_steps({1, 2, 3});
  write_steps({4, 5});
  write_steps({6});
  EXPECT_EQ(cut_events(folder_, 100), 6);
  EXPECT_THAT(steps(),
              testing::ElementsAre(testing::ElementsAre(1, 2, 3), testing::ElementsAre(4, 5), testing::ElementsAre(6)));
  EXPECT_EQ(cut_events(folder_, 4), 4);
  EXPECT_THAT(steps(), testing::ElementsAre(testing::ElementsAre(1, 2, 3), testing::ElementsAre(4)));
  write_steps({5});
  EXPECT_EQ(cut_events(folder_, 3), 3);
  EXPECT_THAT(steps(), testing::ElementsAre(testing::ElementsAre(1, 2, 3)));
  EXPECT_EQ(cut_events(folder_, 0), 0);
  EXPECT_THAT(steps(), testing::ElementsAre(testing::IsEmpty()));
  EXPECT_EQ(cut_events(folder_ + "/absent", 3), 0);
}

TEST_F(TensorBoard, CutsWhatIsHalfWrittenOrDamaged) {
  write_steps({1, 2});
  write_steps({3});
  const std::string whole = read_file(file(1));
  for (size_t size = 0; size < whole.size(); ++size) {
    write_steps({3});
    write_file_atomic(file(1), std::string_view(whole).substr(0, size));
    const int64_t left = cut_events(folder_, 9);
    const auto found = steps();
    if (found.empty()) {
      EXPECT_LT(size, 40U) << "the first record and more is whole";
      continue;
    }
    // A cut between two records is a file that ended there; then the next one's events follow.
    EXPECT_LE(left, 2) << size;
    EXPECT_EQ(static_cast<size_t>(left), std::accumulate(found.begin(), found.end(), size_t{0},
                                                         [](size_t n, const auto& file) { return n + file.size(); }));
  }
  std::string damaged = whole;
  damaged[whole.size() - 6] ^= 1;
  write_file_atomic(file(1), damaged);
  EXPECT_EQ(cut_events(folder_, 9), 1);
  EXPECT_THAT(steps(), testing::ElementsAre(testing::ElementsAre(1)));
}

TEST_F(TensorBoard, ErrorsNameThePath) {
  write_file_atomic(testing::TempDir() + "/qat_events_file", "");
  EXPECT_THROW(EventWriter(testing::TempDir() + "/qat_events_file/x", 0), FileError);
  EventWriter writer(folder_, 0);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{120, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  std::string message;
  try {
    writer.write({.step = 1, .scalars = {{std::string(200, 'x'), 1}}, .histograms = {}});
  } catch (const FileError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(message, file(1) + ": cannot write: File too large");
  writer.write({.step = 2, .scalars = {}, .histograms = {}});
  EXPECT_THAT(steps(), testing::ElementsAre(testing::ElementsAre(2)));
}

}  // namespace
}  // namespace qat::log
