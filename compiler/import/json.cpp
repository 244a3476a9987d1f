#include "compiler/import/json.h"

#include "compiler/import/messages.h"

#include <iterator>
#include <set>
#include <string>
#include <vector>

using namespace llvm;

namespace moeplan::compiler {

namespace {

/// Levels. No file of a checkpoint nests deeper than a handful.
constexpr int kMaxJsonDepth = 64;

/// Iterates over a text and counts, in a counter shared by its copies, what the parser has
/// consumed: the parser's callback is told keys, but not where they stand.
class CountingIterator {
public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char *;
  using reference = const char &;

  CountingIterator(const char *position, size_t *consumed)
      : position_(position), consumed_(consumed) {}
  reference operator*() const { return *position_; }
  CountingIterator &operator++() {
    ++position_;
    ++*consumed_;
    return *this;
  }
  bool operator==(const CountingIterator &other) const { return position_ == other.position_; }

private:
  const char *position_;
  size_t *consumed_;
};

/// Leaves the parser from its callback; never leaves parseJson.
struct JsonRefusal {
  std::string reason;
};

} // namespace

Expected<nlohmann::json> parseJson(StringRef text, StringRef origin) {
  using Event = nlohmann::json::parse_event_t;
  if (text.size() > kMaxJsonBytes)
    return importError(origin + ": at most " + Twine(kMaxJsonBytes) +
                       " bytes of JSON expected, file has " + Twine(text.size()));
  size_t consumed = 0;
  std::vector<std::set<std::string>> keys; // of the objects that are open
  auto refuseAtPosition = [&](const std::string &what) {
    throw JsonRefusal{what + " before byte " + std::to_string(consumed)};
  };
  auto check = [&](int depth, Event event, nlohmann::json &value) {
    if (depth > kMaxJsonDepth)
      refuseAtPosition("more than " + std::to_string(kMaxJsonDepth) + " levels of nesting");
    if (event == Event::object_start)
      keys.emplace_back();
    else if (event == Event::object_end)
      keys.pop_back();
    else if (event == Event::key && !keys.back().insert(value.get_ref<std::string &>()).second)
      refuseAtPosition("duplicate key " + value.dump());
    return true;
  };
  try {
    return nlohmann::json::parse(CountingIterator(text.begin(), &consumed),
                                 CountingIterator(text.end(), &consumed), check);
  } catch (const JsonRefusal &refusal) {
    return importError(origin + ": " + refusal.reason);
  } catch (const std::exception &failure) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    StringRef what = failure.what();
    if (size_t bracket = what.find("] "); what.starts_with("[json.") && bracket != StringRef::npos)
      what = what.drop_front(bracket + 2);
    return importError(origin + ": not JSON: " + what);
  }
}

} // namespace moeplan::compiler
