#include "core/log/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/files.h"

namespace qat::log {
namespace {

class LogTest : public testing::Test {
 protected:
  LogTest()
      : path_(fmt::format("{}qat_log_{}_{}.txt", testing::TempDir(), getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name())) {}
  ~LogTest() override {
    close_file();
    std::filesystem::remove(path_);
  }
  std::string path_;
};

/// What a call writes to stderr, when stderr is no terminal.
template <class Call>
std::string stderr_of(const Call& call) {
  testing::internal::CaptureStderr();
  call();
  return testing::internal::GetCapturedStderr();
}

TEST_F(LogTest, WritesHumanLinesToStderr) {
  const std::string lines = stderr_of([] {
    info("loss {:.2f}", 0.125);
    warn("{} is odd", "this");
    info("{}", "{braces}");
  });
  // On a terminal each line first erases a progress line.
  if (stderr_is_terminal()) GTEST_SKIP() << "stderr was a terminal when the test began";
  EXPECT_EQ(lines, "loss 0.12\nwarning: this is odd\n{braces}\n");
}

TEST_F(LogTest, AppendsDatedLinesToAFile) {
  stderr_of([&] {
    info("before");
    open_file(path_);
    info("one {}", "{}");
    close_file();
    info("between");
    open_file(path_);
    warn("two");
    close_file();
  });
  const std::string stamp = "[[][0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}[]] ";
  EXPECT_THAT(read_file(path_),
              testing::MatchesRegex(stamp + "[[]info[]] one [{][}]\n" + stamp + "[[]warning[]] two\n"));
}

TEST_F(LogTest, LinesAreInTheFileAtOnce) {
  open_file(path_);
  stderr_of([] { info("now"); });
  EXPECT_THAT(read_file(path_), testing::EndsWith("] now\n"));
}

TEST_F(LogTest, AFileThatCannotBeOpenedIsAnError) {
  try {
    open_file("/dev/null/log.txt");
    FAIL();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("/dev/null/log.txt: cannot open the log: "));
  }
}

// /dev/full fails every write with ENOSPC.
TEST_F(LogTest, AFullDiskIsToldOnceAndStopsNothing) {
  const std::string lines = stderr_of([] {
    open_file("/dev/full");
    info("one");
    info("two");
    close_file();
  });
  EXPECT_THAT(lines, testing::HasSubstr("one\n"));
  EXPECT_THAT(lines, testing::HasSubstr("two\n"));
  const std::string warning = "warning: /dev/full: ";
  const size_t first = lines.find(warning);
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(lines.find(warning, first + 1), std::string::npos) << lines;
}

TEST_F(LogTest, ThreadsDoNotMixTheirLines) {
  open_file(path_);
  const std::string lines = stderr_of([] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        for (int i = 0; i < 50; ++i) info("{}", std::string(200, static_cast<char>('a' + t)));
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  const std::string written = read_file(path_);
  int whole = 0;
  for (size_t at = 0; at < written.size(); at = written.find('\n', at) + 1) {
    const std::string line = written.substr(at, written.find('\n', at) - at);
    whole += line.size() > 200 && line.find_first_not_of(line.back(), line.size() - 200) == std::string::npos;
  }
  EXPECT_EQ(whole, 200);
  EXPECT_GE(lines.size(), 200u * 201u);
}

}  // namespace
}  // namespace qat::log
