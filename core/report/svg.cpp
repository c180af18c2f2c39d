#include "core/report/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/report/html.h"

namespace qat::report {
namespace {

/// The smallest and largest of what is added; [0, 1] of nothing.
struct Extent {
  double low = std::numeric_limits<double>::infinity(), high = -low;

  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value), high = std::max(high, value);
  }
  /// Never empty.
  Extent opened() const {
    if (low > high) return {0, 1};
    if (low == high) return {low - std::max(0.5, std::fabs(low) / 10), high + std::max(0.5, std::fabs(high) / 10)};
    return *this;
  }
};

/// From values to the drawing's coordinates, which have one decimal.
struct Scale {
  double from = 0, to = 1, start = 0, end = 1;
  double operator()(double value) const { return start + (value - from) / (to - from) * (end - start); }
};

std::string open_svg(const std::string& label, const char* kind, double width, double height) {
  return fmt::format(
      "<svg class=\"{}\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\" "
      "xmlns=\"http://www.w3.org/2000/svg\">",
      kind, width, height, escape(label));
}

std::string line(const char* kind, double x1, double y1, double x2, double y2) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>", kind, x1, y1, x2,
                     y2);
}

std::string text(const char* kind, double x, double y, const std::string& content) {
  return fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", kind, x, y, escape(content));
}

/// 25000 -> "25k".
std::string axis_number(double value) {
  const double size = std::fabs(value);
  if (size >= 1e6 && std::fmod(size, 1e5) < 1) return number(value / 1e6) + "M";
  if (size >= 1e4 && std::fmod(size, 100) < 1) return number(value / 1e3) + "k";
  return number(value);
}

/// Vertical lines with numbers below `bottom`.
std::string x_axis(const Scale& x, double top, double bottom, int count) {
  std::string out;
  for (const double tick : ticks(x.from, x.to, count)) {
    if (tick < x.from || tick > x.to) continue;
    out += line("grid", x(tick), top, x(tick), bottom) + text("tick mid", x(tick), bottom + 14, axis_number(tick));
  }
  return out;
}

}  // namespace

std::vector<double> ticks(double low, double high, int count) {
  if (!(high > low) || !std::isfinite(high - low) || count < 1) return {low};
  const double rough = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power >= rough * 0.999) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> all;
  const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
  for (double i = first; i <= last; ++i) all.push_back(i * step);
  return all;
}

std::string line_chart(const std::string& label, const std::vector<Series>& series, bool as_percent) {
  constexpr double kWidth = 440, kHeight = 240, kLeft = 50, kRight = 12, kTop = 10, kBottom = 24;
  constexpr size_t kMostDots = 60;
  Extent xs, ys;
  for (const Series& s : series) {
    for (const auto& [px, py] : s.points) {
      if (!std::isfinite(py)) continue;
      xs.add(px);
      ys.add(py);
    }
  }
  xs = xs.opened(), ys = ys.opened();
  const std::vector<double> rows = ticks(ys.low, ys.high, 5);
  const Scale x{xs.low, xs.high, kLeft, kWidth - kRight}, y{rows.front(), rows.back(), kHeight - kBottom, kTop};
  const auto shown = [&](double value) { return as_percent ? percent(value) : number(value); };

  std::string out = open_svg(label, "chart lines", kWidth, kHeight);
  for (const double row : rows) {
    out += line("grid", kLeft, y(row), kWidth - kRight, y(row));
    out += text("tick end", kLeft - 6, y(row) + 4, as_percent ? number(100 * row) + " %" : axis_number(row));
  }
  for (const double tick : ticks(xs.low, xs.high, 5)) {
    if (tick < xs.low || tick > xs.high) continue;
    out += text("tick mid", x(tick), kHeight - 6, axis_number(tick));
  }
  for (const Series& s : series) {
    std::string path;
    bool pen_down = false;
    for (const auto& [px, py] : s.points) {
      if (std::isfinite(py)) path += fmt::format("{}{:.1f} {:.1f}", pen_down ? 'L' : 'M', x(px), y(py));
      pen_down = std::isfinite(py);
    }
    const char* kind = s.faint ? " faint" : s.dashed ? " dashed" : "";
    if (!path.empty()) out += fmt::format("<path class=\"line c{}{}\" d=\"{}\"/>", s.colour % kColours, kind, path);
    if (s.faint) continue;
    const size_t every = s.points.size() / kMostDots + 1;
    for (size_t i = 0; i < s.points.size(); ++i) {
      const auto& [px, py] = s.points[i];
      if (!std::isfinite(py) || (i % every != 0 && i + 1 != s.points.size())) continue;
      out += fmt::format("<circle class=\"dot c{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" data-t=\"{}\"/>",
                         s.colour % kColours, x(px), y(py), s.points.size() > kMostDots ? "1.5" : "2.8",
                         escape(fmt::format("{}, step {}: {}", s.name, number(px), shown(py))));
    }
  }
  return out + "</svg>";
}

std::string dot_chart(const std::string& label, const std::string& unit, const std::vector<std::string>& rows,
                      const std::vector<Dots>& dots) {
  constexpr double kWidth = 440, kLeft = 128, kRight = 16, kTop = 6, kRow = 18;
  Extent xs;
  for (const Dots& series : dots) {
    for (const auto& value : series.values) {
      if (value) xs.add(*value);
    }
  }
  if (xs.low > 0) xs.low = 0;
  xs = xs.opened();
  const double bottom = kTop + kRow * static_cast<double>(rows.size());
  const Scale x{xs.low, xs.high, kLeft, kWidth - kRight};
  std::string out = open_svg(label, "chart rows", kWidth, bottom + 22) + x_axis(x, kTop, bottom, 5);
  for (size_t i = 0; i < rows.size(); ++i) {
    const double y = kTop + kRow * (static_cast<double>(i) + 0.5);
    out += line("guide", kLeft, y, kWidth - kRight, y) + text("name end", kLeft - 8, y + 4, shortened(rows[i], 18));
    for (const Dots& series : dots) {
      if (i >= series.values.size() || !series.values[i] || !std::isfinite(*series.values[i])) continue;
      out += fmt::format("<circle class=\"dot c{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" data-t=\"{}\"/>",
                         series.colour % kColours, x(*series.values[i]), y,
                         escape(fmt::format("{}, {}: {} {}", rows[i], series.name, number(*series.values[i]), unit)));
    }
  }
  return out + "</svg>";
}

std::string range_chart(const std::string& label, const std::vector<Range>& ranges, int colour) {
  constexpr double kWidth = 440, kLeft = 128, kRight = 16, kTop = 6, kRow = 18;
  Extent xs;
  for (const Range& range : ranges) {
    for (const double value : {range.min, range.max, range.lowest, range.highest, 0.0}) xs.add(value);
  }
  xs = xs.opened();
  const double bottom = kTop + kRow * static_cast<double>(ranges.size());
  const Scale x{xs.low, xs.high, kLeft, kWidth - kRight};
  std::string out = open_svg(label, "chart rows", kWidth, bottom + 22) + x_axis(x, kTop, bottom, 5);
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& r = ranges[i];
    const double y = kTop + kRow * (static_cast<double>(i) + 0.5);
    const double left = std::min(x(r.lowest), x(r.highest)), right = std::max(x(r.lowest), x(r.highest));
    out += text("name end", kLeft - 8, y + 4, shortened(r.name, 18));
    out += fmt::format("<g data-t=\"{}\">",
                       escape(fmt::format("{}: values {} to {}, codes {} to {}", r.name, number(r.min), number(r.max),
                                          number(r.lowest), number(r.highest))));
    out += fmt::format("<rect class=\"span c{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"9\" rx=\"2\"/>",
                       colour % kColours, left, y - 4.5, std::max(1.0, right - left));
    out += line("values", x(r.min), y, x(r.max), y) + line("values", x(r.min), y - 4, x(r.min), y + 4) +
           line("values", x(r.max), y - 4, x(r.max), y + 4) + "</g>";
  }
  return out + "</svg>";
}

std::string level_chart(const std::string& label, const LevelHistogram& h, int colour) {
  constexpr double kWidth = 300, kHeight = 132, kLeft = 8, kRight = 8, kTop = 8, kBottom = 26;
  constexpr size_t kFewLevels = 33;
  constexpr double kBase = kHeight - kBottom;
  Extent xs;
  xs.add(h.first);
  xs.add(h.first + h.width * static_cast<double>(h.counts.size()));
  for (const double level : h.levels) xs.add(level);
  xs = xs.opened();
  // One bin that dwarfs the others (the zeros behind a ReLU) is cut, and says its share.
  double most = 0, second = 0, total = 0;
  size_t highest = 0;
  for (size_t i = 0; i < h.counts.size(); ++i) {
    total += h.counts[i];
    if (h.counts[i] > most) {
      second = std::exchange(most, h.counts[i]);
      highest = i;
    } else {
      second = std::max(second, h.counts[i]);
    }
  }
  const double share = total > 0 ? most / total : 0;
  const bool cut = second > 0 && most > 3 * second;
  most = std::max(1.0, cut ? 1.4 * second : most);
  const Scale x{xs.low, xs.high, kLeft, kWidth - kRight}, y{0, most, kBase, kTop};
  const bool few = h.levels.size() <= kFewLevels;

  std::string out = open_svg(label, "chart levels", kWidth, kHeight);
  std::string levels;
  for (const double level : h.levels) {
    levels += fmt::format("M{:.1f} {:.1f}V{:.1f}", x(level), few ? kTop : kBase, kBase + (few ? 5.0 : 4.0));
  }
  if (!levels.empty()) out += fmt::format("<path class=\"level{}\" d=\"{}\"/>", few ? "" : " dense", levels);
  std::string path = fmt::format("M{:.1f} {:.1f}", x(h.first), kBase);
  for (size_t i = 0; i < h.counts.size(); ++i) {
    path += fmt::format("V{:.1f}H{:.1f}", y(std::min(most, h.counts[i])),
                        x(h.first + h.width * static_cast<double>(i + 1)));
  }
  if (!h.counts.empty()) {
    out += fmt::format("<path class=\"area c{}\" d=\"{}V{:.1f}Z\"/>", colour % kColours, path, kBase);
  }
  if (cut) {
    const double at = x(h.first + h.width * (static_cast<double>(highest) + 0.5));
    out += text(at < kWidth / 2 ? "tick" : "tick end", at + (at < kWidth / 2 ? 8 : -8), kTop + 10, percent(share, 0));
  }
  out += line("axis", kLeft, kBase, kWidth - kRight, kBase);
  for (const double tick : ticks(xs.low, xs.high, 4)) {
    if (tick < xs.low || tick > xs.high || x(tick) < kLeft + 6 || x(tick) > kWidth - kRight - 6) continue;
    out += text("tick mid", x(tick), kHeight - 6, axis_number(tick));
  }
  return out + "</svg>";
}

std::string confusion_chart(const std::vector<std::string>& classes, const std::vector<int64_t>& counts) {
  const size_t n = classes.size();
  constexpr double kSide = 380, kLeft = 84, kTop = 76;
  const double cell = kSide / static_cast<double>(std::max<size_t>(1, n));
  const bool numbers = n <= 12, labels = n <= 30;
  const double left = labels ? kLeft : 8, top = labels ? kTop : 8;
  std::string out = open_svg("confusion matrix", "chart matrix", left + kSide + 8, top + kSide + 8);
  out += fmt::format("<rect class=\"ground\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\"/>", left, top, kSide,
                     kSide);
  for (size_t i = 0; i < n; ++i) {
    const double middle = (static_cast<double>(i) + 0.5) * cell;
    if (labels) {
      out += text("name end", left - 6, top + middle + 4, shortened(classes[i], 12));
      out += fmt::format("<text class=\"name\" transform=\"translate({:.1f} {:.1f}) rotate(-45)\">{}</text>",
                         left + middle + 2, top - 6, escape(shortened(classes[i], 12)));
    }
    int64_t samples = 0;
    for (size_t j = 0; j < n; ++j) samples += counts[i * n + j];
    for (size_t j = 0; j < n; ++j) {
      const int64_t count = counts[i * n + j];
      if (count == 0) continue;
      const double share = static_cast<double>(count) / static_cast<double>(samples);
      const double cx = left + static_cast<double>(j) * cell, cy = top + static_cast<double>(i) * cell;
      // The root lets rare mistakes be seen.
      out += fmt::format(
          "<rect class=\"cell {}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
          "fill-opacity=\"{:.2f}\" "
          "data-t=\"{}\"/>",
          i == j ? "right" : "wrong", cx + 0.5, cy + 0.5, std::max(0.5, cell - 1), std::max(0.5, cell - 1),
          i == j ? 0.15 + 0.85 * share : 0.1 + 0.9 * std::sqrt(share),
          escape(fmt::format("{} taken for {}: {} of {}", classes[i], classes[j], count, samples)));
      if (!numbers) continue;
      const bool dark = i == j ? share > 0.5 : share > 0.3;
      out += text(dark ? "count on" : "count", cx + cell / 2, cy + cell / 2 + 4, std::to_string(count));
    }
  }
  return out + "</svg>";
}

}  // namespace qat::report
