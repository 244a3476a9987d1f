#include "runtime/support/progress.h"

#include "runtime/support/units.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace {

using moeplan::Progress;
using moeplan::ProgressOutput;
using namespace std::chrono_literals;

constexpr uint64_t mebibyte = 1 << 20;

/// Time that only the test moves, and everything that was written.
struct Screen {
  ProgressOutput output(bool terminal, unsigned columns = 80) {
    return {.write = [this](std::string_view part) { text += part; },
            .now = [this] { return time; },
            .terminal = terminal,
            .columns = columns};
  }

  size_t count(char c) const {
    return static_cast<size_t>(std::count(text.begin(), text.end(), c));
  }

  std::string text;
  ProgressOutput::Clock::time_point time{};
};

TEST(Progress, SaysNothingOfShortWork) {
  for (bool terminal : {false, true}) {
    Screen screen;
    Progress progress("verify", 100 * mebibyte, "bytes", screen.output(terminal));
    screen.time += 999ms;
    progress.update(99 * mebibyte);
    progress.finish();
    EXPECT_EQ(screen.text, "");
  }
}

TEST(Progress, LogGetsALineEveryFewSeconds) {
  Screen screen;
  {
    Progress progress("verify", 100 * mebibyte, "bytes", screen.output(false));
    for (int second = 1; second <= 12; ++second) {
      screen.time += 1s;
      progress.update(static_cast<uint64_t>(second) * 5 * mebibyte);
    }
  }
  EXPECT_EQ(screen.text, "verify: 5%, 5.0 MiB of 100.0 MiB, 5.0 MiB/s, 19 s left\n"
                         "verify: 30%, 30.0 MiB of 100.0 MiB, 5.0 MiB/s, 14 s left\n"
                         "verify: 55%, 55.0 MiB of 100.0 MiB, 5.0 MiB/s, 9 s left\n");
}

TEST(Progress, LogSaysHowLongItTook) {
  Screen screen;
  Progress progress("evaluate", 60, "tokens", screen.output(false));
  screen.time += 2s;
  progress.advance(30);
  screen.time += 2s;
  progress.advance(30);
  progress.finish();
  progress.finish();
  EXPECT_EQ(screen.text, "evaluate: 50%, 30 tokens of 60 tokens, 15 tokens/s, 2 s left\n"
                         "evaluate: 60 tokens in 4 s, 15 tokens/s\n");
}

TEST(Progress, TerminalBarIsRedrawnInPlace) {
  Screen screen;
  Progress progress("verify", 100 * mebibyte, "bytes", screen.output(true));
  screen.time += 1s;
  progress.update(50 * mebibyte);
  EXPECT_EQ(
      screen.text,
      "\rverify [==========>          ] 50%, 50.0 MiB of 100.0 MiB, 50.0 MiB/s, 1 s left\x1b[K");
  screen.time += 99ms;
  progress.update(60 * mebibyte);
  EXPECT_EQ(screen.count('\r'), 1U);
  screen.time += 1ms;
  progress.update(70 * mebibyte);
  EXPECT_EQ(screen.count('\r'), 2U);
  EXPECT_EQ(screen.count('\n'), 0U);
  progress.finish();
  EXPECT_EQ(screen.text.back(), '\n');
}

TEST(Progress, TerminalBarFitsItsWidth) {
  for (unsigned columns : {1U, 5U, 20U, 40U, 80U, 200U}) {
    Screen screen;
    Progress progress("verify", 100 * mebibyte, "bytes", screen.output(true, columns));
    screen.time += 1s;
    progress.update(50 * mebibyte);
    const size_t controls = 1 + 3; // "\r" and "\x1b[K"
    EXPECT_LT(screen.text.size() - controls, std::max(columns, 2U)) << columns;
  }
}

TEST(Progress, UnfinishedBarIsTakenOffTheTerminal) {
  Screen screen;
  {
    Progress progress("verify", 100 * mebibyte, "bytes", screen.output(true));
    screen.time += 1s;
    progress.update(mebibyte);
    screen.text.clear();
  }
  EXPECT_EQ(screen.text, "\r\x1b[K");
}

TEST(Progress, UnknownTotalShowsAmountAndRate) {
  Screen screen;
  Progress progress("import", 0, "bytes", screen.output(false));
  screen.time += 2s;
  progress.update(8 * mebibyte);
  EXPECT_EQ(screen.text, "import: 8.0 MiB, 4.0 MiB/s\n");
}

TEST(Progress, MoreThanTheTotalIsStillAHundredPercent) {
  Screen screen;
  Progress progress("import", mebibyte, "bytes", screen.output(true));
  screen.time += 2s;
  progress.update(8 * mebibyte);
  EXPECT_NE(screen.text.find("100%"), std::string::npos);
}

TEST(Units, BytesInPowersOf1024) {
  EXPECT_EQ(moeplan::formatBytes(0), "0 B");
  EXPECT_EQ(moeplan::formatBytes(1023), "1023 B");
  EXPECT_EQ(moeplan::formatBytes(1024), "1.0 KiB");
  EXPECT_EQ(moeplan::formatBytes(1536.0 * (1 << 20)), "1.5 GiB");
  EXPECT_EQ(moeplan::formatBytes(1048575), "1.0 MiB");
}

TEST(Units, DurationsRoundUp) {
  EXPECT_EQ(moeplan::formatDuration(0), "0 s");
  EXPECT_EQ(moeplan::formatDuration(0.2), "1 s");
  EXPECT_EQ(moeplan::formatDuration(185), "3 min 05 s");
  EXPECT_EQ(moeplan::formatDuration(7 * 60 + 2 * 3600), "2 h 07 min");
  EXPECT_EQ(moeplan::formatDuration(-1), "?");
}

TEST(Units, RatesHaveFourDigits) {
  EXPECT_EQ(moeplan::formatRate(0.0631123), "0.06311");
  EXPECT_EQ(moeplan::formatRate(13.2649), "13.26");
  EXPECT_EQ(moeplan::formatRate(8123.4), "8123");
  EXPECT_EQ(moeplan::formatRate(0), "0");
}

} // namespace
