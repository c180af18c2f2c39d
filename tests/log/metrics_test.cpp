#include "core/log/metrics.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "core/base/error.h"
#include "core/base/files.h"

namespace qat::log {
namespace {

class MetricsTest : public testing::Test {
 protected:
  MetricsTest()
      : path_(fmt::format("{}qat_metrics_{}_{}.jsonl", testing::TempDir(), getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(path_);
  }
  ~MetricsTest() override { std::filesystem::remove_all(path_); }

  void put(const std::string& bytes) const { std::ofstream(path_) << bytes; }

  std::string path_;
};

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const FileError& error) {
    return error.what();
  }
  return "no FileError";
}

TEST_F(MetricsTest, EveryLineIsThereAtOnce) {
  MetricsWriter metrics(path_);
  EXPECT_EQ(read_file(path_), "");
  metrics.write({{"step", 1}, {"loss", 0.25}});
  EXPECT_EQ(read_file(path_), "{\"step\":1,\"loss\":0.25}\n");
  metrics.write({{"b", "x\ny"}, {"a", NAN}, {"c", "\xff"}});
  EXPECT_EQ(read_file(path_), "{\"step\":1,\"loss\":0.25}\n{\"b\":\"x\\ny\",\"a\":null,\"c\":\"\xef\xbf\xbd\"}\n");
}

TEST_F(MetricsTest, AppendsToAnOldFile) {
  put("{\"a\":1}\n");
  MetricsWriter metrics(path_);
  EXPECT_EQ(metrics.offset(), 8u);
  metrics.write({{"b", 2}});
  EXPECT_EQ(metrics.offset(), 16u);
  EXPECT_EQ(read_file(path_), "{\"a\":1}\n{\"b\":2}\n");
}

TEST_F(MetricsTest, CutsATornLine) {
  put("{\"a\":1}\n{\"b\":");
  EXPECT_EQ(MetricsWriter(path_).offset(), 8u);
  EXPECT_EQ(read_file(path_), "{\"a\":1}\n");
  put("{\"a\":");
  EXPECT_EQ(MetricsWriter(path_).offset(), 0u);
  EXPECT_EQ(read_file(path_), "");
}

// The last newline lies before the block that is searched first.
TEST_F(MetricsTest, CutsALongTornLine) {
  put("{\"a\":1}\n" + std::string(10000, 'x'));
  EXPECT_EQ(MetricsWriter(path_).offset(), 8u);
  put(std::string(10000, 'x'));
  EXPECT_EQ(MetricsWriter(path_).offset(), 0u);
}

TEST_F(MetricsTest, ResumeGoesBackToTheCheckpoint) {
  uint64_t offset = 0;
  {
    MetricsWriter metrics(path_);
    metrics.write({{"step", 1}});
    offset = metrics.offset();
    metrics.write({{"step", 2}});
  }
  MetricsWriter metrics(path_);
  metrics.truncate_to(offset);
  EXPECT_EQ(metrics.offset(), offset);
  metrics.write({{"step", 3}});
  EXPECT_EQ(read_file(path_), "{\"step\":1}\n{\"step\":3}\n");
  metrics.truncate_to(0);
  EXPECT_EQ(read_file(path_), "");
}

TEST_F(MetricsTest, ResumeRefusesAnotherFile) {
  put("{\"a\":1}\n");
  MetricsWriter metrics(path_);
  EXPECT_EQ(message_of([&] { metrics.truncate_to(9); }), path_ + ": 8 bytes, but the checkpoint was written at byte 9");
  EXPECT_EQ(message_of([&] { metrics.truncate_to(5); }),
            path_ + ": no line ends at byte 5, where the checkpoint was written");
  EXPECT_EQ(read_file(path_), "{\"a\":1}\n");
}

TEST_F(MetricsTest, RefusesWhatIsNoObject) {
  MetricsWriter metrics(path_);
  EXPECT_THROW(metrics.write(nlohmann::ordered_json::array({1})), Error);
  EXPECT_EQ(metrics.offset(), 0u);
}

TEST_F(MetricsTest, RefusesPathsThatCannotBe) {
  put("");
  EXPECT_EQ(message_of([&] { MetricsWriter(path_ + "/x"); }), path_ + "/x: cannot open: Not a directory");
  EXPECT_EQ(message_of([] { MetricsWriter("/dev/null"); }), "/dev/null: cannot open: not a regular file");
}

// RLIMIT_FSIZE makes write() write the part that fits and then fail, as a full disk does.
TEST_F(MetricsTest, FullDiskLeavesWholeLines) {
  MetricsWriter metrics(path_);
  metrics.write({{"step", 1}});
  const std::string before = read_file(path_);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit limit{20, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  const std::string message = message_of([&] { metrics.write({{"text", std::string(100, 'x')}}); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(message, path_ + ": cannot write: File too large");
  EXPECT_EQ(read_file(path_), before);
  metrics.write({{"step", 2}});
  EXPECT_EQ(read_file(path_), before + "{\"step\":2}\n");
}

}  // namespace
}  // namespace qat::log
