// Shows how far a long piece of work is.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace moeplan {

/// Where progress is shown and by which clock. Tests give their own.
struct ProgressOutput {
  using Clock = std::chrono::steady_clock;

  std::function<void(std::string_view)> write;
  std::function<Clock::time_point()> now = Clock::now;
  bool terminal = false; ///< a bar that is redrawn, or plain lines
  unsigned columns = 80; ///< width of the terminal

  /// stderr, a terminal unless it is redirected or TERM is "dumb".
  static ProgressOutput standardError();
};

/// Progress of one piece of work: on a terminal a bar with rate and time left, in a log a plain
/// line every few seconds, and nothing at all for what takes less than a second. Calling update()
/// often is fine, it mostly reads the clock. For one thread at a time; nothing is thrown and a
/// failure to write is ignored.
class Progress {
public:
  static constexpr std::chrono::milliseconds quietTime{1000};   ///< nothing is shown before
  static constexpr std::chrono::milliseconds redrawTime{100};   ///< between two drawings of the bar
  static constexpr std::chrono::milliseconds logLineTime{5000}; ///< between two lines in a log

  /// `label` says what is done: "verify". `total` is the work, 0 where it is unknown. `unit` names
  /// what is counted, in the plural: "tokens"; "bytes" are printed as KiB, MiB, ...
  Progress(std::string label, uint64_t total, std::string unit = "bytes",
           ProgressOutput output = ProgressOutput::standardError());
  /// Takes an unfinished bar off the terminal, so that an error message starts on a line of its
  /// own.
  ~Progress();
  Progress(const Progress &) = delete;
  Progress &operator=(const Progress &) = delete;

  /// `done` of the total, since the start.
  void update(uint64_t done);
  void advance(uint64_t amount) { update(done_ + amount); }
  /// For work whose size becomes known or changes on the way.
  void setTotal(uint64_t total) { total_ = total; }
  /// The work is complete: a last line says how long it took, if anything was shown at all.
  void finish();

private:
  double seconds(ProgressOutput::Clock::time_point now) const;
  std::string amount(double value) const;
  std::string numbers(double elapsedSeconds) const;
  std::string bar(double elapsedSeconds) const;

  std::string label_;
  std::string unit_;
  uint64_t total_;
  uint64_t done_ = 0;
  ProgressOutput output_;
  ProgressOutput::Clock::time_point start_;
  std::optional<ProgressOutput::Clock::time_point> lastShown_;
  bool finished_ = false;
};

} // namespace moeplan
