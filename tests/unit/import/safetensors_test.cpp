#include "compiler/import/input_file.h"
#include "compiler/import/json.h"
#include "compiler/import/messages.h"
#include "compiler/import/safetensors.h"
#include "tests/support/random_checkpoint.h"

#include "llvm/ADT/StringExtras.h"

#include <gtest/gtest.h>

namespace moeplan::compiler {
namespace {

llvm::Expected<std::vector<TensorInfo>> parse(const std::string &file) {
  return parseSafetensorsHeader(llvm::arrayRefFromStringRef(file), "m.safetensors");
}

std::string refusal(const std::string &file) {
  auto tensors = parse(file);
  return tensors ? "accepted" : llvm::toString(tensors.takeError());
}

/// The refusal of a file with this header and as many bytes of data.
std::string refusal(llvm::StringRef header, size_t dataBytes) {
  return refusal(testing::joinSafetensors(header, std::string(dataBytes, '\0')));
}

TEST(SafetensorsTest, ReadsTensorsInTheOrderOfTheirData) {
  testing::SafetensorsWriter writer;
  writer.add("z", "BF16", {2, 3}, std::string(12, 'z'));
  writer.add("a", "F32", {5}, std::string(20, 'a'));
  writer.add("scalar", "F16", {}, std::string(2, 's'));
  std::string file = testing::joinSafetensors(writer.header(), writer.data());
  auto tensors = parse(file);
  ASSERT_TRUE(bool(tensors)) << llvm::toString(tensors.takeError());
  ASSERT_EQ(tensors->size(), 3u);
  const TensorInfo &z = (*tensors)[0], &a = (*tensors)[1], &scalar = (*tensors)[2];
  EXPECT_EQ(z.name, "z");
  EXPECT_EQ(z.dtype, DType::BF16);
  EXPECT_EQ(z.shape, (llvm::SmallVector<uint64_t, 2>{2, 3}));
  EXPECT_EQ(z.bytes, 12u);
  EXPECT_EQ(file.substr(z.offset, z.bytes), std::string(12, 'z'));
  EXPECT_EQ(a.dtype, DType::F32);
  EXPECT_EQ(file.substr(a.offset, a.bytes), std::string(20, 'a'));
  EXPECT_EQ(scalar.dtype, DType::F16);
  EXPECT_TRUE(scalar.shape.empty());
  EXPECT_EQ(file.substr(scalar.offset, scalar.bytes), "ss");
}

TEST(SafetensorsTest, AcceptsMetadataAndPaddingOfTheHeader) {
  EXPECT_EQ(refusal("{\"__metadata__\": {\"format\": \"pt\"}, "
                    "\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}     ",
                    4),
            "accepted");
  EXPECT_EQ(refusal("{\"__metadata__\": 3}", 0),
            "m.safetensors: __metadata__: an object expected, file has 3");
}

TEST(SafetensorsTest, AcceptsEmptyTensors) {
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                    " \"b\": {\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                    4),
            "accepted");
}

TEST(SafetensorsTest, RefusesAFileTooShortForItsLength) {
  EXPECT_EQ(refusal(std::string(3, '\0')),
            "m.safetensors: a header length of 8 bytes expected, file has 3 bytes");
}

TEST(SafetensorsTest, RefusesAHeaderThatLeavesTheFile) {
  std::string file = testing::joinSafetensors("{}", "");
  file[0] = 3;
  EXPECT_EQ(refusal(file),
            "m.safetensors: a header length of at most 2 bytes expected, file has 3");
  file.replace(0, 8, std::string(8, '\xff'));
  EXPECT_EQ(refusal(file), "m.safetensors: a header length of at most 2 bytes expected, "
                           "file has 18446744073709551615");
}

TEST(SafetensorsTest, StatesThePositionOfASyntaxError) {
  EXPECT_EQ(
      refusal("{\"a\": }", 0).find("m.safetensors: not JSON: parse error at line 1, column 7"), 0u)
      << refusal("{\"a\": }", 0);
}

TEST(SafetensorsTest, RefusesAHeaderThatIsNotAnObject) {
  EXPECT_EQ(refusal("[]", 0),
            "m.safetensors: a header that is a JSON object expected, file has []");
  EXPECT_EQ(refusal("{\"a\": 7}", 0),
            "a: an object with dtype, shape and data_offsets expected, file has 7 (m.safetensors)");
}

TEST(SafetensorsTest, RefusesATensorThatStandsTwice) {
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                    " \"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
                    8),
            "m.safetensors: duplicate key \"a\" before byte 59");
}

TEST(SafetensorsTest, NamesTheTensorOfAnUnsupportedDtype) {
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4),
            "a: dtype BF16, F16 or F32 expected, file has \"I8\" (m.safetensors)");
  EXPECT_EQ(refusal("{\"a\": {\"shape\":[4],\"data_offsets\":[0,4]}}", 4),
            "a: dtype BF16, F16 or F32 expected, missing (m.safetensors)");
}

TEST(SafetensorsTest, RefusesShapesThatAreNotUnsignedIntegers) {
  for (const char *shape : {"[-1]", "[1.5]", "[\"4\"]", "4", "[[1]]", "null"})
    EXPECT_EQ(refusal(std::string("{\"a\": {\"dtype\":\"F32\",\"shape\":") + shape +
                          ",\"data_offsets\":[0,4]}}",
                      4)
                  .find("a: shape: an array of unsigned integers expected, file has "),
              0u)
        << shape;
}

TEST(SafetensorsTest, RefusesOffsetsThatAreNoRange) {
  for (const char *offsets :
       {"[4,0]", "[-4,0]", "[0]", "[0,2,4]", "{}", "[0,4.0]", "[0,99999999999999999999]"})
    EXPECT_EQ(refusal(std::string("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":") +
                          offsets + "}}",
                      4)
                  .find("a: data_offsets: [begin, end] with begin <= end expected, file has "),
              0u)
        << offsets;
}

TEST(SafetensorsTest, RefusesDataBeyondTheEndOfTheFile) {
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7),
            "a: data_offsets: an end of at most 7, the bytes of data in the file, expected, "
            "file has [0, 8] (m.safetensors)");
}

TEST(SafetensorsTest, RefusesASizeThatDoesNotFollowFromTheShape) {
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"BF16\",\"shape\":[2, 3],\"data_offsets\":[0,8]}}", 8),
            "a: 12 bytes expected for BF16 [2, 3], file has 8 (m.safetensors)");
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"F32\",\"shape\":[4294967296, 4294967296],"
                    "\"data_offsets\":[0,0]}}",
                    0),
            "a: over 2^64 bytes expected for F32 [4294967296, 4294967296], file has 0 "
            "(m.safetensors)");
}

TEST(SafetensorsTest, RefusesOverlapHoleAndRest) {
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                    " \"b\": {\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
                    12),
            "b: data at offset 8 expected, file has it at 4, which overlaps a (m.safetensors)");
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                    " \"b\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
                    12),
            "b: data at offset 4 expected, file has it at 8, which leaves a hole (m.safetensors)");
  EXPECT_EQ(refusal("{\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 6),
            "m.safetensors: 4 bytes of data expected by the header, file has 6");
}

TEST(SafetensorsTest, NamesInMessagesCannotForgeLines) {
  std::string message = refusal("{\"a\\nb\\u001b\": {\"dtype\":\"I8\"}}", 0);
  EXPECT_EQ(message.find("a\\x0ab\\x1b: dtype"), 0u) << message;
}

TEST(SafetensorsTest, RefusesEveryCutOfAFile) {
  testing::SafetensorsWriter writer;
  writer.add("a", "BF16", {2, 3}, std::string(12, 'a'));
  writer.add("b", "F32", {1}, std::string(4, 'b'));
  std::string file = testing::joinSafetensors(writer.header(), writer.data());
  EXPECT_EQ(refusal(file), "accepted");
  for (size_t length = 0; length < file.size(); ++length)
    EXPECT_NE(refusal(file.substr(0, length)), "accepted") << length;
}

// Any byte may be anything: the parser refuses or accepts, and reads nothing outside the file.
TEST(SafetensorsTest, SurvivesEveryChangedByte) {
  testing::SafetensorsWriter writer;
  writer.add("a", "BF16", {2, 3}, std::string(12, 'a'));
  writer.add("b", "F32", {1}, std::string(4, 'b'));
  const std::string file = testing::joinSafetensors(writer.header(), writer.data());
  for (size_t position = 0; position < file.size(); ++position)
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = file;
      changed[position] = char(byte);
      auto tensors = parse(changed);
      if (!tensors) {
        EXPECT_FALSE(llvm::toString(tensors.takeError()).empty());
        continue;
      }
      for (const TensorInfo &tensor : *tensors)
        EXPECT_LE(tensor.offset + tensor.bytes, changed.size());
    }
}

TEST(InputFileTest, SaysWhyAFileCannotBeOpened) {
  testing::TemporaryDirectory directory;
  std::string missing = (directory.path() / "missing").string();
  auto file = InputFile::open(missing);
  ASSERT_FALSE(bool(file));
  EXPECT_EQ(llvm::toString(file.takeError()), missing + ": No such file or directory");
  auto notAFile = InputFile::open(directory.path().string());
  ASSERT_FALSE(bool(notAFile));
  EXPECT_EQ(llvm::toString(notAFile.takeError()),
            directory.path().string() + ": a regular file expected");
}

TEST(InputFileTest, KeepsItsBytesAfterRelease) {
  testing::TemporaryDirectory directory;
  std::string text(1 << 16, 'x'); // several pages
  testing::writeFile(directory.path() / "f", text);
  auto file = InputFile::open((directory.path() / "f").string());
  ASSERT_TRUE(bool(file)) << llvm::toString(file.takeError());
  file->release(file->bytes());
  file->release(file->bytes().slice(1, 10)); // no whole page
  file->release({});
  EXPECT_EQ(file->text(), text);
}

TEST(InputFileTest, AnEmptyFileHasNoBytes) {
  testing::TemporaryDirectory directory;
  testing::writeFile(directory.path() / "f", "");
  auto file = InputFile::open((directory.path() / "f").string());
  ASSERT_TRUE(bool(file)) << llvm::toString(file.takeError());
  EXPECT_TRUE(file->bytes().empty());
}

} // namespace
} // namespace moeplan::compiler
