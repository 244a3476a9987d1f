// The artifacts that a machine is measured with, made by the compiler where it is at hand.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moeplan::tools {

/// A new directory, removed with all that is in it on destruction.
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

/// Runs `moeplanc probe`, of this program's directory or else of PATH, into `directory` and returns
/// the artifacts. Throws a Failure that says how to do without where there is no moeplanc.
std::vector<std::string> makeProbes(const std::filesystem::path &directory);

} // namespace moeplan::tools
