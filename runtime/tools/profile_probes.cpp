#include "runtime/tools/profile_probes.h"

#include "runtime/tools/common.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <spawn.h>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace moeplan::tools {
namespace {

namespace fs = std::filesystem;

std::optional<fs::path> findCompiler() {
  std::error_code none;
  std::vector<fs::path> folders = {fs::read_symlink("/proc/self/exe", none).parent_path()};
  if (const char *path = std::getenv("PATH")) {
    std::istringstream list(path);
    for (std::string folder; std::getline(list, folder, ':');)
      folders.emplace_back(folder);
  }
  for (const fs::path &folder : folders)
    if (const fs::path file = folder / "moeplanc";
        !folder.empty() && access(file.c_str(), X_OK) == 0 && fs::is_regular_file(file, none))
      return file;
  return std::nullopt;
}

} // namespace

TemporaryDirectory::TemporaryDirectory() {
  std::error_code error;
  const fs::path parent = fs::temp_directory_path(error);
  std::string name = ((error ? fs::path("/tmp") : parent) / "moeplan-profile-XXXXXX").string();
  if (!mkdtemp(name.data()))
    throw Failure(name + ": " + std::strerror(errno));
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored; // nothing can be done about it, and nothing depends on it
  fs::remove_all(path_, ignored);
}

std::vector<std::string> makeProbes(const fs::path &directory) {
  const std::optional<fs::path> compiler = findCompiler();
  if (!compiler)
    throw Failure("no moeplanc beside this program or in PATH to compile probes with: make them "
                  "elsewhere with 'moeplanc probe' and give them with --probe");
  std::vector<std::string> words = {compiler->string(), "probe", "-o", directory.string()};
  std::vector<char *> arguments;
  for (std::string &word : words)
    arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  if (const int error =
          posix_spawn(&child, words[0].c_str(), nullptr, nullptr, arguments.data(), environ))
    throw Failure(words[0] + ": " + std::strerror(error));
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR)
      throw Failure(words[0] + ": " + std::strerror(errno));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw Failure("'" + words[0] + " probe' failed");
  std::vector<std::string> probes;
  for (const fs::directory_entry &entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".moeplan")
      probes.push_back(entry.path().string());
  std::sort(probes.begin(), probes.end());
  return probes;
}

} // namespace moeplan::tools
