#include "compiler/cache/build_cache.h"
#include "tests/support/files.h"

#include "llvm/ADT/StringExtras.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <thread>

namespace moeplan::testing {
namespace {

using compiler::BuildCache;
using compiler::CacheKey;
namespace fs = std::filesystem;

CacheKey keyOf(const std::string &name) {
  CacheKey key("test");
  key.add(name);
  return key;
}

class BuildCacheTest : public ::testing::Test {
protected:
  std::unique_ptr<BuildCache> open(uint64_t maxBytes = 1 << 20) const {
    return llvm::cantFail(BuildCache::open(directory_.path(), maxBytes));
  }
  static bool store(BuildCache &cache, const std::string &name, const std::string &content) {
    return cache.store(keyOf(name), llvm::arrayRefFromStringRef(content));
  }
  static std::string find(const BuildCache &cache, const std::string &name) {
    const auto found = cache.find(keyOf(name));
    return found ? found->getBuffer().str() : "nothing";
  }
  /// Makes all entries as old as if they had been used `hours` ago.
  void age(int hours) const {
    for (const fs::path &file : filesBelow(directory_.path()))
      fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  }
  fs::path onlyEntry() const {
    const std::vector<fs::path> files = filesBelow(directory_.path());
    EXPECT_EQ(files.size(), 1u);
    return files.front();
  }

  TemporaryDirectory directory_;
};

TEST_F(BuildCacheTest, GivesBackWhatWasStored) {
  const auto cache = open();
  EXPECT_EQ(find(*cache, "a"), "nothing");
  EXPECT_FALSE(cache->contains(keyOf("a")));
  EXPECT_TRUE(store(*cache, "a", "content"));
  EXPECT_TRUE(store(*cache, "empty", ""));
  EXPECT_TRUE(cache->contains(keyOf("a")));
  EXPECT_EQ(find(*cache, "a"), "content");
  EXPECT_EQ(find(*open(), "a"), "content");
  EXPECT_EQ(find(*cache, "empty"), "");
  EXPECT_EQ(find(*cache, "b"), "nothing");
}

TEST_F(BuildCacheTest, KindsAndListsOfPartsAreToldApart) {
  EXPECT_NE(keyOf("ab").hex(), CacheKey("test").add("a").add("b").hex());
  EXPECT_NE(CacheKey("test").add("a").hex(), CacheKey("tests").add("a").hex());
  EXPECT_NE(CacheKey("test").add("").hex(), CacheKey("test").hex());
}

TEST_F(BuildCacheTest, WithoutADirectoryNothingIsKept) {
  BuildCache cache;
  EXPECT_FALSE(cache.isOn());
  EXPECT_FALSE(store(cache, "a", "content"));
  EXPECT_EQ(find(cache, "a"), "nothing");
}

TEST_F(BuildCacheTest, ADamagedEntryIsNone) {
  for (const size_t at : {0, 8, 20, 32, 38}) {
    const auto cache = open();
    store(*cache, "a", "content");
    std::string bytes = readFile(onlyEntry());
    bytes[at] ^= 1;
    writeFile(onlyEntry(), bytes);
    EXPECT_EQ(find(*cache, "a"), "nothing") << at;
    EXPECT_FALSE(cache->contains(keyOf("a"))) << "it is removed";
  }
  for (const size_t length : {0, 31, 32, 38}) {
    const auto cache = open();
    store(*cache, "a", "content");
    fs::resize_file(onlyEntry(), length);
    EXPECT_EQ(find(*cache, "a"), "nothing") << length;
  }
}

TEST_F(BuildCacheTest, WhatWasNotUsedForLongestGoes) {
  const std::string content(900, 'x'); // 932 bytes in the cache
  {
    const auto cache = open();
    for (const char *name : {"a", "b", "c", "d"})
      store(*cache, name, content);
  }
  age(2);
  find(*open(), "a");
  const auto cache = open(4000);
  EXPECT_TRUE(store(*cache, "e", content));
  EXPECT_EQ(find(*cache, "a"), content) << "used since";
  EXPECT_EQ(find(*cache, "e"), content);
  EXPECT_EQ(filesBelow(directory_.path()).size(), 4u + 1) << "one went; the lock is a file too";
}

TEST_F(BuildCacheTest, OpeningBringsItBelowItsLimit) {
  {
    const auto cache = open();
    for (const char *name : {"a", "b", "c", "d"})
      store(*cache, name, std::string(900, 'x'));
  }
  age(2);
  open(2000);
  EXPECT_EQ(filesBelow(directory_.path()).size(), 1u + 1);
}

TEST_F(BuildCacheTest, WhatIsInUseStaysAndTheRestIsNotStored) {
  const auto cache = open(2000);
  EXPECT_TRUE(store(*cache, "a", std::string(900, 'a')));
  EXPECT_TRUE(store(*cache, "b", std::string(900, 'b')));
  EXPECT_FALSE(store(*cache, "c", std::string(900, 'c')));
  EXPECT_TRUE(store(*cache, "d", std::string(50, 'd')));
  EXPECT_EQ(find(*cache, "a"), std::string(900, 'a'));
  EXPECT_EQ(find(*cache, "c"), "nothing");
  EXPECT_FALSE(store(*open(100), "e", std::string(100, 'e')));
}

TEST_F(BuildCacheTest, RoomIsLeftOnTheFileSystem) {
  const auto cache = open();
  const std::string content = "content";
  EXPECT_FALSE(cache->store(keyOf("a"), llvm::arrayRefFromStringRef(content), uint64_t(1) << 62));
  EXPECT_EQ(find(*cache, "a"), "nothing");
}

TEST_F(BuildCacheTest, FilesOfKilledProcessesAreRemoved) {
  store(*open(), "a", "content");
  const fs::path entry = onlyEntry();
  const fs::path left = entry.string() + ".tmp.1.0";
  fs::copy_file(entry, left);
  open(1);
  EXPECT_TRUE(fs::exists(left)) << "its process may be alive";
  age(48);
  open();
  EXPECT_FALSE(fs::exists(left));
}

TEST_F(BuildCacheTest, ServesManyAtOnce) {
  const auto contentOf = [](int i) { return std::string(1000 + i, char('a' + i % 26)); };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      const auto cache = open(20'000); // a process of its own, as far as the directory knows
      for (int round = 0; round < 3; ++round)
        for (int i = 0; i < 30; ++i) {
          const std::string name = std::to_string(i), found = find(*cache, name);
          EXPECT_TRUE(found == "nothing" || found == contentOf(i)) << i;
          if (found == "nothing")
            store(*cache, name, contentOf(i));
        }
    });
  for (std::thread &thread : threads)
    thread.join();
  for (const fs::path &file : filesBelow(directory_.path()))
    EXPECT_EQ(file.string().find(".tmp."), std::string::npos) << file;
}

} // namespace
} // namespace moeplan::testing
