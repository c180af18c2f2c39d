#include "core/log/progress.h"

#include <gtest/gtest.h>

#include <string>

namespace qat::log {
namespace {

/// A clock and a screen.
struct Fake {
  double now = 100.0;
  std::string screen;
  ProgressOptions options(bool terminal, std::optional<double> interval = {}) {
    return {"img", terminal, interval, [this](std::string_view bytes) { screen += bytes; }, [this] { return now; }};
  }
};

// 50 images in 5 s are 10 a second; the other 150 take 15 s. 2 s of the 5 s were spent waiting.
TEST(Progress, ShowsRateDataAndRemainingTime) {
  Fake fake;
  Progress progress(200, fake.options(false, 1.0));
  progress.update(0, [] { return "early"; });
  fake.now += 5.0;
  progress.update(
      50, [] { return "epoch 1/2 step 5/20 | loss 1.5"; }, 2.0);
  EXPECT_EQ(fake.screen, "epoch 1/2 step 5/20 | loss 1.5 | 10 img/s | data 40% | eta 00:15\n");
}

TEST(Progress, LinesAreRateLimitedAndTextIsLazy) {
  Fake fake;
  Progress progress(1000, fake.options(false));
  int made = 0;
  for (int64_t i = 1; i <= 100; ++i) {
    fake.now += 0.25;
    progress.update(i, [&] {
      ++made;
      return "x";
    });
  }
  EXPECT_EQ(made, 2);  // at 10 and 20 of 25 seconds
  EXPECT_EQ(fake.screen, "x | 4.0 img/s | eta 04:00\nx | 4.0 img/s | eta 03:50\n");
}

TEST(Progress, RewritesOnATerminal) {
  Fake fake;
  {
    Progress progress(10, fake.options(true, 1.0));
    progress.update(0, [] { return "a"; });
    EXPECT_EQ(fake.screen, "");
    fake.now += 2.0;
    progress.update(4, [] { return "b"; });
    EXPECT_EQ(fake.screen, "\rb | 2.0 img/s | eta 00:03\x1b[K");
    fake.screen.clear();
    fake.now += 3.0;
    progress.update(10, [] { return "c"; });
    progress.finish();
    progress.finish();
  }
  EXPECT_EQ(fake.screen, "\rc | 2.0 img/s\x1b[K\n");
}

TEST(Progress, TheLastStepIsAlwaysShown) {
  Fake fake;
  Progress progress(10, fake.options(false));
  progress.update(10, [] { return "end"; });
  EXPECT_EQ(fake.screen, "end\n");
}

// Steps of an earlier process are no work of this one: 20 in 10 s, 60 to go.
TEST(Progress, ResumeDoesNotInflateTheRate) {
  Fake fake;
  Progress progress(1000, fake.options(false));
  progress.update(920, [] { return "x"; });
  fake.now += 10.0;
  progress.update(940, [] { return "x"; });
  EXPECT_EQ(fake.screen, "x | 2.0 img/s | eta 00:30\n");
}

}  // namespace
}  // namespace qat::log
