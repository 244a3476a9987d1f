// Files that tests make.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace moeplan::testing {

/// A directory that is removed with all it contains.
class TemporaryDirectory {
public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory &) = delete;
  TemporaryDirectory &operator=(const TemporaryDirectory &) = delete;

  const std::filesystem::path &path() const { return path_; }

private:
  std::filesystem::path path_;
};

/// Writes `text` to `path`, in place of what was there. Both throw std::runtime_error on failure.
void writeFile(const std::filesystem::path &path, std::string_view text);
std::string readFile(const std::filesystem::path &path);
/// The regular files in `directory` and below, sorted; none where there is no such directory.
std::vector<std::filesystem::path> filesBelow(const std::filesystem::path &directory);

} // namespace moeplan::testing
