#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/report/html.h"
#include "core/report/report.h"

namespace qat::report {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Html, TextCannotBecomeMarkup) {
  EXPECT_EQ(escape("<b a=\"1\" c='2'>&"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;");
  EXPECT_EQ(escape("a\x01z"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(escape("\xff"), "\xEF\xBF\xBD");
  EXPECT_EQ(escape("\xC3\xA9"), "\xC3\xA9");
}

TEST(Page, HoldsARunsNumbersAndEscapesItsNames) {
  RunReport run;
  run.name = "<script>alert(1)</script>";
  run.config = "seed: 3 # </pre><script>";
  run.facts = {{"model", "lenet5"}};
  run.rows = {{.name = "float", .top1 = 0.9085, .top5 = 0.99, .loss = 0.25, .bytes = 2328872, .latency_ms = {}}};
  run.compared = 304900000;
  run.mismatches = 0;
  run.classes = {"T-shirt", "<img src=x>"};
  run.confusion = {7, 1, 2, 6};
  for (int step = 50; step <= 150; step += 50) {
    run.metrics.push_back(
        {{"stage", 0}, {"kind", "float"}, {"step", step}, {"loss", 2.0 / step}, {"learning_rate", 0.05}});
  }
  const std::string html = page({run});
  EXPECT_THAT(html, HasSubstr("90.85"));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)"));
  EXPECT_THAT(html, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(html, Not(HasSubstr("</pre><script>")));
  EXPECT_THAT(html, Not(HasSubstr("<img src=x>")));
  for (const char* outside : {"src=\"http", "href=\"http", "@import", "url(http"}) {
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  }
}

}  // namespace
}  // namespace qat::report
