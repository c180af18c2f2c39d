// Charts as SVG elements. Colours are classes (c0 .. c7) that the page's style resolves for light and dark; an
// element's data-t is what the page's script shows under the pointer. All labels are escaped here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace qat::report {

inline constexpr int kColours = 8;

struct Series {
  std::string name;
  int colour = 0;
  bool dashed = false;
  bool faint = false;  // a thin line without dots
  std::vector<std::pair<double, double>> points;
};

/// Lines over a common x axis. Points that are not finite interrupt a line. `as_percent`: y are fractions.
std::string line_chart(const std::string& label, const std::vector<Series>& series, bool as_percent);

/// One row a name, with one dot a series.
struct Dots {
  std::string name;
  int colour = 0;
  std::vector<std::optional<double>> values;  // one for each row
};
std::string dot_chart(const std::string& label, const std::string& unit, const std::vector<std::string>& rows,
                      const std::vector<Dots>& dots);

/// A tensor's values, and what its codes can hold.
struct Range {
  std::string name;
  double min = 0, max = 0;
  double lowest = 0, highest = 0;
};
std::string range_chart(const std::string& label, const std::vector<Range>& ranges, int colour);

/// A distribution on a grid: counts of equally wide bins from `first` on, and where the levels are.
struct LevelHistogram {
  double first = 0, width = 1;
  std::vector<double> counts;
  std::vector<double> levels;  // ascending
};
std::string level_chart(const std::string& label, const LevelHistogram& histogram, int colour);

/// counts [classes, classes]: rows are true classes. Numbers where cells are large enough.
std::string confusion_chart(const std::vector<std::string>& classes, const std::vector<int64_t>& counts);

/// Round values that cover [low, high], about `count` of them.
std::vector<double> ticks(double low, double high, int count);

}  // namespace qat::report
