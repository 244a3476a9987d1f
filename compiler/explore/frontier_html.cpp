#include "compiler/explore/frontier.h"

#include "compiler/explore/frontier_template.inc"

#include <cassert>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

constexpr std::string_view kPlaceholder = "@FRONTIER_JSON@";

/// JSON that an HTML parser reads as the text of one script element. '<' occurs in strings only, so
/// that its escape is JSON of the same value.
std::string escapedForScript(std::string_view json) {
  std::string text;
  text.reserve(json.size());
  for (char c : json)
    if (c == '<')
      text += "\\u003c";
    else
      text += c;
  return text;
}

} // namespace

std::string compiler::frontierHtml(const Frontier &frontier) {
  std::string page;
  for (std::string_view piece : kFrontierTemplate)
    page += piece;
  const size_t at = page.find(kPlaceholder);
  assert(at != std::string::npos && "the template has no place for the data");
  return page.replace(at, kPlaceholder.size(), escapedForScript(frontierJson(frontier)));
}
