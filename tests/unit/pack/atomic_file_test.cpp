#include "compiler/pack/atomic_file.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace moeplan::testing {
namespace {

using compiler::AtomicFile;

bool isEmpty(const std::filesystem::path &directory) {
  return std::filesystem::directory_iterator(directory) == std::filesystem::directory_iterator();
}

TEST(AtomicFileTest, AppearsWholeOrNotAtAll) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() / "out";
  const uint8_t bytes[] = {1, 2, 3};
  {
    auto file = AtomicFile::create(path);
    ASSERT_TRUE(bool(file));
    EXPECT_FALSE(bool(file->write(bytes)));
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  EXPECT_TRUE(isEmpty(directory.path()));
  auto file = AtomicFile::create(path);
  ASSERT_TRUE(bool(file));
  EXPECT_FALSE(bool(file->write(bytes)));
  EXPECT_FALSE(bool(file->padTo(5)));
  EXPECT_FALSE(bool(file->writeAt(0, {bytes[1]})));
  EXPECT_EQ(file->position(), 5u);
  EXPECT_FALSE(bool(file->commit()));
  EXPECT_EQ(readFile(path), std::string("\2\2\3\0\0", 5));
}

TEST(AtomicFileTest, SaysThatItWillNotFit) {
  const TemporaryDirectory directory;
  auto file = AtomicFile::create(std::string(directory.path() / "out"));
  ASSERT_TRUE(bool(file));
  EXPECT_FALSE(bool(file->checkSpace(1)));
  const std::string message = toString(file->checkSpace(uint64_t(1) << 62));
  EXPECT_NE(message.find("/out: takes "), std::string::npos) << message;
  EXPECT_NE(message.find(", its file system has "), std::string::npos) << message;
}

} // namespace
} // namespace moeplan::testing
