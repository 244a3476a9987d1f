// How the runtime reports failure: a code and one line of text, by value, without exceptions.
#pragma once

#include "moeplan/moeplan.h"

#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace moeplan {

/// Success, or a code with a one-line message. Success allocates nothing.
class [[nodiscard]] Status {
public:
  Status() = default;
  Status(moeplan_code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == MOEPLAN_OK; }
  moeplan_code code() const { return code_; }
  const std::string &message() const & { return message_; }
  std::string &&message() && { return std::move(message_); }

  /// The same failure with `context: ` before its message.
  Status withContext(std::string_view context) && {
    if (!ok())
      message_.insert(0, std::string(context) + ": ");
    return std::move(*this);
  }

private:
  moeplan_code code_ = MOEPLAN_OK;
  std::string message_;
};

inline Status invalidArgument(std::string m) { return {MOEPLAN_INVALID_ARGUMENT, std::move(m)}; }
inline Status notFound(std::string m) { return {MOEPLAN_NOT_FOUND, std::move(m)}; }
inline Status corrupt(std::string m) { return {MOEPLAN_CORRUPT, std::move(m)}; }
inline Status unsupported(std::string m) { return {MOEPLAN_UNSUPPORTED, std::move(m)}; }
inline Status exhausted(std::string m) { return {MOEPLAN_RESOURCE_EXHAUSTED, std::move(m)}; }
inline Status ioError(std::string m) { return {MOEPLAN_IO_ERROR, std::move(m)}; }

/// A value, or the Status that says why there is none.
template <typename T> class [[nodiscard]] Result {
public:
  Result(T value) : state_(std::move(value)) {}
  Result(Status failure) : state_(std::move(failure)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  const T &value() const & { return std::get<T>(state_); }
  T &value() & { return std::get<T>(state_); }
  T &&value() && { return std::get<T>(std::move(state_)); }
  /// The failure; only where !ok().
  Status status() && { return ok() ? Status() : std::get<Status>(std::move(state_)); }
  const Status &failure() const { return std::get<Status>(state_); }

private:
  std::variant<T, Status> state_;
};

} // namespace moeplan

#define MOEPLAN_CONCAT_(a, b) a##b
#define MOEPLAN_CONCAT(a, b) MOEPLAN_CONCAT_(a, b)

/// Returns the failure of a Status expression to the caller.
#define MOEPLAN_TRY(expression)                                                                    \
  do {                                                                                             \
    if (::moeplan::Status status_ = (expression); !status_.ok())                                   \
      return status_;                                                                              \
  } while (false)

/// Declares `variable` from a Result expression, or returns its failure to the caller.
#define MOEPLAN_ASSIGN(variable, expression)                                                       \
  auto MOEPLAN_CONCAT(result_, __LINE__) = (expression);                                           \
  if (!MOEPLAN_CONCAT(result_, __LINE__).ok())                                                     \
    return std::move(MOEPLAN_CONCAT(result_, __LINE__)).status();                                  \
  variable = std::move(MOEPLAN_CONCAT(result_, __LINE__)).value()
