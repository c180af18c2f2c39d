// Text and numbers as they stand in a page. Pages are HTML that is also well-formed XML.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qat::report {

/// For text and for attributes in quotes: & < > " ' become entities. Bytes that are no UTF-8, and control characters
/// that XML has no place for, become U+FFFD.
std::string escape(std::string_view text);

/// Short for people: "0.0123", "12.3", "1.2e-07", "4051"; "-" for what is not finite.
std::string number(double value);
/// "91.25 %" of 0.9125.
std::string percent(double fraction, int digits = 2);
/// Thousands apart: "2 328 872" (with no-break spaces).
std::string grouped(uint64_t count);
/// `text` of at most `length` characters, its middle replaced by an ellipsis.
std::string shortened(const std::string& text, size_t length);

}  // namespace qat::report
