#include "compiler/support/toml_reader.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

#include <cmath>
#include <sstream>

using namespace llvm;
using namespace moeplan::compiler;

namespace {

std::string_view view(StringRef text) { return {text.data(), text.size()}; }

std::string numberText(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? std::to_string(int64_t(value))
                                                              : formatv("{0}", value).str();
}

} // namespace

StringRef moeplan::compiler::nearestName(StringRef name, ArrayRef<StringRef> known) {
  // "memory" is nearer to "memory_bytes" than to "decode", which takes fewer edits.
  auto distance = [&](StringRef other) {
    const bool extends = other.starts_with(name) || name.starts_with(other);
    return std::pair(!extends, name.edit_distance(other));
  };
  return *std::min_element(known.begin(), known.end(),
                           [&](StringRef a, StringRef b) { return distance(a) < distance(b); });
}

std::optional<uint64_t> moeplan::compiler::parseBytes(StringRef text) {
  const StringRef number = text.take_while([](char c) { return isDigit(c) || c == '.'; });
  const StringRef unit = text.drop_front(number.size()).trim();
  double value = 0;
  if (number.empty() || number.getAsDouble(value))
    return std::nullopt;
  const double factor = StringSwitch<double>(unit)
                            .Cases("", "B", 1)
                            .Case("kB", 1e3)
                            .Case("MB", 1e6)
                            .Case("GB", 1e9)
                            .Case("TB", 1e12)
                            .Case("KiB", 1024.0)
                            .Case("MiB", 1048576.0)
                            .Case("GiB", 1073741824.0)
                            .Case("TiB", 1099511627776.0)
                            .Default(0);
  const double bytes = std::round(value * factor);
  if (factor == 0 || bytes >= 0x1p63)
    return std::nullopt;
  return uint64_t(bytes);
}

Expected<toml::table> TomlReader::parse(StringRef text) const {
  // LLVM is built without exceptions, the parser throws them.
  std::optional<std::pair<std::string, toml::source_region>> failure;
  try {
    return toml::parse(view(text), view(origin_));
  } catch (const toml::parse_error &error) {
    failure.emplace(std::string(error.description()), error.source());
  }
  return failAt(failure->second, failure->first);
}

Error TomlReader::failAt(const toml::source_region &where, const Twine &message) const {
  return createStringError(origin_ + ":" + Twine(where.begin.line) + ":" +
                           Twine(where.begin.column) + ": " + message);
}

Error TomlReader::checkKeys(const toml::table &table, ArrayRef<StringRef> known) const {
  for (const auto &[key, node] : table) {
    const StringRef name(key.str().data(), key.str().size());
    if (!is_contained(known, name))
      return failAt(key.source(), "unknown key '" + name + "' (nearest known: '" +
                                      nearestName(name, known) + "')");
  }
  return Error::success();
}

Expected<const toml::table *> TomlReader::readTable(const toml::table &table, StringRef key) const {
  const toml::node *node = table.get(view(key));
  if (!node)
    return static_cast<const toml::table *>(nullptr);
  if (!node->is_table())
    return fail(*node, "'" + key + "' must be a table");
  return node->as_table();
}

Error TomlReader::forEachTable(const toml::table &table, StringRef key,
                               function_ref<Error(const toml::table &)> visit) const {
  const toml::node *node = table.get(view(key));
  if (!node)
    return Error::success();
  const toml::array *array = node->as_array();
  if (!array)
    return fail(*node, "'" + key + "' must be a list");
  for (const toml::node &element : *array) {
    if (!element.is_table())
      return fail(element, "a " + key + " must be a table");
    if (Error error = visit(*element.as_table()))
      return error;
  }
  return Error::success();
}

Error TomlReader::read(const toml::table &table, StringRef key, std::string &out) const {
  const toml::node *node = table.get(view(key));
  if (!node)
    return Error::success();
  const auto value = node->value<std::string>();
  if (!node->is_string() || value->empty())
    return fail(*node, "'" + key + "' must be a string that is not empty");
  out = *value;
  return Error::success();
}

Error TomlReader::read(const toml::table &table, StringRef key,
                       std::vector<std::string> &out) const {
  const toml::node *node = table.get(view(key));
  if (!node)
    return Error::success();
  const toml::array *array = node->as_array();
  if (!array)
    return fail(*node, "'" + key + "' must be a list");
  for (const toml::node &element : *array) {
    if (!element.is_string() || element.value<std::string>()->empty())
      return fail(element, "'" + key + "' must be a list of strings");
    out.push_back(*element.value<std::string>());
  }
  return Error::success();
}

Error TomlReader::readNumber(const toml::table &table, StringRef key, Range range,
                             std::optional<double> &out) const {
  const toml::node *node = table.get(view(key));
  if (!node)
    return Error::success();
  const auto value = node->is_number() ? node->value<double>() : std::nullopt;
  const bool within = value && std::isfinite(*value) && *value <= range.most &&
                      (range.open ? *value > range.least : *value >= range.least);
  if (!within) {
    std::string bounds =
        (range.open ? " greater than " : " of at least ") + numberText(range.least);
    if (range.most < 1e300)
      bounds += " and at most " + numberText(range.most);
    return fail(*node, "'" + key + "' must be a number" + bounds);
  }
  out = *value;
  return Error::success();
}

Error TomlReader::readNumber(const toml::table &table, StringRef key, Range range,
                             double &out) const {
  std::optional<double> value;
  Error error = readNumber(table, key, range, value);
  if (!error && value)
    out = *value;
  return error;
}

Error TomlReader::readInteger(const toml::table &table, StringRef key, uint64_t least,
                              uint64_t most, uint64_t &out) const {
  const toml::node *node = table.get(view(key));
  if (!node)
    return Error::success();
  const auto value = node->is_integer() ? node->value<int64_t>() : std::nullopt;
  if (!value || *value < 0 || uint64_t(*value) < least || uint64_t(*value) > most)
    return fail(*node,
                "'" + key + "' must be a whole number from " + Twine(least) + " to " + Twine(most));
  out = uint64_t(*value);
  return Error::success();
}

Error TomlReader::readBytes(const toml::table &table, StringRef key,
                            std::optional<uint64_t> &out) const {
  const toml::node *node = table.get(view(key));
  if (!node)
    return Error::success();
  std::optional<uint64_t> bytes;
  if (node->is_string())
    bytes = parseBytes(*node->value<std::string>());
  else if (node->is_integer() && *node->value<int64_t>() > 0)
    bytes = uint64_t(*node->value<int64_t>());
  if (!bytes || *bytes == 0)
    return fail(*node, "'" + key + "' must be a number of bytes, as \"24 GiB\" or \"36.13 GB\"");
  out = bytes;
  return Error::success();
}

Error TomlReader::readFraction(const toml::table &table, StringRef key,
                               std::optional<double> &out) const {
  const toml::node *node = table.get(view(key));
  if (!node)
    return Error::success();
  double value = -1;
  if (node->is_number()) {
    value = *node->value<double>();
  } else if (node->is_string()) {
    const std::string text = *node->value<std::string>();
    StringRef number = StringRef(text).trim();
    if (number.consume_back("%") && !number.trim().getAsDouble(value))
      value /= 100;
    else
      value = -1;
  }
  if (!std::isfinite(value) || value < 0)
    return fail(*node, "'" + key + "' must be a fraction of at least 0, as 0.015 or \"1.5 %\"");
  out = value;
  return Error::success();
}
