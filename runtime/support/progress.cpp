#include "runtime/support/progress.h"

#include "runtime/support/units.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sys/ioctl.h>
#include <unistd.h>

namespace moeplan {

ProgressOutput ProgressOutput::standardError() {
  ProgressOutput output;
  output.write = [](std::string_view text) {
    (void)std::fwrite(text.data(), 1, text.size(), stderr);
    (void)std::fflush(stderr);
  };
  const char *term = std::getenv("TERM");
  output.terminal = isatty(STDERR_FILENO) != 0 && term && std::string_view(term) != "dumb";
  winsize size{};
  if (output.terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    output.columns = size.ws_col;
  return output;
}

Progress::Progress(std::string label, uint64_t total, std::string unit, ProgressOutput output)
    : label_(std::move(label)), unit_(std::move(unit)), total_(total), output_(std::move(output)),
      start_(output_.now()) {}

Progress::~Progress() {
  if (!finished_ && lastShown_ && output_.terminal)
    output_.write("\r\x1b[K");
}

void Progress::update(uint64_t done) {
  done_ = done;
  if (finished_)
    return;
  const auto now = output_.now();
  if (lastShown_) {
    if (now - *lastShown_ < (output_.terminal ? redrawTime : logLineTime))
      return;
  } else if (now - start_ < quietTime) {
    return;
  }
  lastShown_ = now;
  if (output_.terminal)
    output_.write("\r" + bar(seconds(now)) + "\x1b[K");
  else
    output_.write(label_ + ": " + numbers(seconds(now)) + "\n");
}

void Progress::finish() {
  if (finished_)
    return;
  finished_ = true;
  if (!lastShown_)
    return;
  const double elapsed = seconds(output_.now());
  output_.write((output_.terminal ? "\r" : "") + label_ + ": " +
                amount(static_cast<double>(done_)) + " in " + formatDuration(elapsed) + ", " +
                amount(static_cast<double>(done_) / std::max(elapsed, 1e-9)) + "/s" +
                (output_.terminal ? "\x1b[K\n" : "\n"));
}

double Progress::seconds(ProgressOutput::Clock::time_point now) const {
  return std::chrono::duration<double>(now - start_).count();
}

std::string Progress::amount(double value) const {
  if (unit_ == "bytes")
    return formatBytes(value);
  return (value == std::floor(value) ? std::to_string(static_cast<uint64_t>(value))
                                     : formatRate(value)) +
         " " + unit_;
}

/// "42%, 1.2 GiB of 2.9 GiB, 512.0 MiB/s, 4 s left".
std::string Progress::numbers(double elapsedSeconds) const {
  const double rate = static_cast<double>(done_) / std::max(elapsedSeconds, 1e-9);
  const std::string speed = amount(rate) + "/s";
  if (total_ == 0)
    return amount(static_cast<double>(done_)) + ", " + speed;
  const double share = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  std::string text = std::to_string(static_cast<int>(share * 100)) + "%, " +
                     amount(static_cast<double>(done_)) + " of " +
                     amount(static_cast<double>(total_)) + ", " + speed;
  if (done_ > 0 && done_ < total_)
    text += ", " + formatDuration(static_cast<double>(total_ - done_) / rate) + " left";
  return text;
}

/// "verify [=======>           ] 42%, ...", cut to the width of the terminal.
std::string Progress::bar(double elapsedSeconds) const {
  const std::string text = numbers(elapsedSeconds);
  const size_t columns = std::max(output_.columns, 2u) - 1; // the last column would wrap
  std::string line = label_ + " ";
  const size_t used = line.size() + text.size() + 3; // brackets and a space
  if (total_ > 0 && used + 10 <= columns) {
    const size_t width = std::min<size_t>(columns - used, 40);
    const double share = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
    const auto filled = static_cast<size_t>(share * static_cast<double>(width));
    std::string cells(filled, '=');
    if (filled < width)
      cells += '>';
    cells.resize(width, ' ');
    line += "[" + cells + "] ";
  }
  line += text;
  line.resize(std::min(line.size(), columns));
  return line;
}

} // namespace moeplan
