// What the readers of TOML files share: errors that name file, line and column, and typed keys.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <optional>
#include <string>
#include <toml++/toml.h>
#include <vector>

namespace moeplan::compiler {

/// The name in `known` that is nearest to `name`: one that extends it or that it extends, else that
/// which takes the fewest edits.
llvm::StringRef nearestName(llvm::StringRef name, llvm::ArrayRef<llvm::StringRef> known);

/// Bytes of "24GiB", "36.13 GB", "512 MiB", "4096"; nothing where it is none of these.
std::optional<uint64_t> parseBytes(llvm::StringRef text);

/// Parses text and reads typed values of its tables. Every error is one line,
/// "ORIGIN:LINE:COLUMN: message". A read of an absent key succeeds and leaves `out` as it is.
class TomlReader {
public:
  explicit TomlReader(llvm::StringRef origin) : origin_(origin) {}

  llvm::Expected<toml::table> parse(llvm::StringRef text) const;

  llvm::Error fail(const toml::node &node, const llvm::Twine &message) const {
    return failAt(node.source(), message);
  }
  llvm::Error failAt(const toml::source_region &where, const llvm::Twine &message) const;

  /// Refuses keys that are not in `known`, naming the nearest that is.
  llvm::Error checkKeys(const toml::table &table, llvm::ArrayRef<llvm::StringRef> known) const;
  /// `key` as a table; null where it is absent.
  llvm::Expected<const toml::table *> readTable(const toml::table &table,
                                                llvm::StringRef key) const;
  /// Calls `visit` for each table of the list `key`.
  llvm::Error forEachTable(const toml::table &table, llvm::StringRef key,
                           llvm::function_ref<llvm::Error(const toml::table &)> visit) const;

  llvm::Error read(const toml::table &table, llvm::StringRef key, std::string &out) const;
  llvm::Error read(const toml::table &table, llvm::StringRef key,
                   std::vector<std::string> &out) const;

  /// Bounds of a number; `least` itself is out of them where `open`.
  struct Range {
    double least = 0, most = 1e300;
    bool open = false;
  };
  llvm::Error readNumber(const toml::table &table, llvm::StringRef key, Range range,
                         std::optional<double> &out) const;
  llvm::Error readNumber(const toml::table &table, llvm::StringRef key, Range range,
                         double &out) const;
  /// A whole number in [least, most].
  llvm::Error readInteger(const toml::table &table, llvm::StringRef key, uint64_t least,
                          uint64_t most, uint64_t &out) const;
  /// A positive number of bytes: an integer, or a string that parseBytes() reads.
  llvm::Error readBytes(const toml::table &table, llvm::StringRef key,
                        std::optional<uint64_t> &out) const;
  /// A number, 0.015, or a string in per cent, "1.5%"; at least 0.
  llvm::Error readFraction(const toml::table &table, llvm::StringRef key,
                           std::optional<double> &out) const;

private:
  llvm::StringRef origin_;
};

} // namespace moeplan::compiler
