// Where UTF-8 characters end.
#pragma once

#include <cstddef>
#include <string_view>

namespace moeplan {

enum class Utf8State { complete, incomplete, invalid };

struct Utf8Prefix {
  Utf8State state;
  size_t bytes; ///< of the character where complete; 0 otherwise
};

/// What `text`, which is not empty, begins with: a character, a part of one that more bytes could
/// complete, or neither. Surrogates, overlong forms and values over U+10FFFF are invalid
/// (RFC 3629, section 4).
Utf8Prefix utf8Prefix(std::string_view text);

/// Offset of the first byte that is not part of a character; std::string_view::npos where there is
/// none.
size_t findInvalidUtf8(std::string_view text);

} // namespace moeplan
