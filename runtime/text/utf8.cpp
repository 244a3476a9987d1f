#include "runtime/text/utf8.h"

#include <algorithm>

namespace moeplan {
namespace {

/// A row of the table "Well-Formed UTF-8 Byte Sequences" (Unicode 15, table 3-7): the lead bytes it
/// is for, the length, and the range of the second byte. Further bytes are 80..BF.
struct Utf8Form {
  unsigned char leadFirst, leadLast, bytes, secondFirst, secondLast;
};

constexpr Utf8Form utf8Forms[] = {
    {0x00, 0x7f, 1, 0x00, 0x00}, {0xc2, 0xdf, 2, 0x80, 0xbf}, {0xe0, 0xe0, 3, 0xa0, 0xbf},
    {0xe1, 0xec, 3, 0x80, 0xbf}, {0xed, 0xed, 3, 0x80, 0x9f}, {0xee, 0xef, 3, 0x80, 0xbf},
    {0xf0, 0xf0, 4, 0x90, 0xbf}, {0xf1, 0xf3, 4, 0x80, 0xbf}, {0xf4, 0xf4, 4, 0x80, 0x8f},
};

} // namespace

Utf8Prefix utf8Prefix(std::string_view text) {
  auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto *form = std::find_if(std::begin(utf8Forms), std::end(utf8Forms), [&](auto &row) {
    return row.leadFirst <= at(0) && at(0) <= row.leadLast;
  });
  if (form == std::end(utf8Forms))
    return {Utf8State::invalid, 0};
  const size_t available = std::min<size_t>(form->bytes, text.size());
  for (size_t i = 1; i < available; ++i) {
    const unsigned char first = i == 1 ? form->secondFirst : 0x80;
    const unsigned char last = i == 1 ? form->secondLast : 0xbf;
    if (at(i) < first || at(i) > last)
      return {Utf8State::invalid, 0};
  }
  if (available < form->bytes)
    return {Utf8State::incomplete, 0};
  return {Utf8State::complete, form->bytes};
}

size_t findInvalidUtf8(std::string_view text) {
  for (size_t offset = 0; offset < text.size();) {
    const Utf8Prefix prefix = utf8Prefix(text.substr(offset));
    if (prefix.state != Utf8State::complete)
      return offset;
    offset += prefix.bytes;
  }
  return std::string_view::npos;
}

} // namespace moeplan
