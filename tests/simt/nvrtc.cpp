// NVRTC's functions on the host's C++ compiler: what comes out in place of a cubin is a shared
// object for the executor of this folder, which fake_cuda.cpp loads. The C++ compiler is that of
// the build.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

constexpr int kSuccess = 0, kInvalidInput = 3, kCompilation = 6;
constexpr int kArchitectures[] = {80, 86, 89, 90, 100, 120};

struct Program {
  std::string source;
  std::map<std::string, std::string> headers;
  std::string image, log;
};

std::string read(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}
void write(const std::string &path, const std::string &text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// What the executor calls: fake_cuda.cpp says what these are.
std::string launcherOf(const std::string &source) {
  std::smatch match;
  if (!std::regex_search(source, match, std::regex(R"((\w+)\(const moeplan_step \*\w+([^)]*)\))")))
    return "#error \"no kernel was found\"\n";
  const std::string symbol = match[1], bindings = match[2];
  const auto count = std::count(bindings.begin(), bindings.end(), '*');
  std::string arguments = "*(const moeplan_step **)arguments[0]";
  for (long i = 1; i <= count; ++i)
    arguments += ", *(void **)arguments[" + std::to_string(i) + "]";
  return R"(
#include "executor.h"
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT int moeplan_simt_parameters(const char *symbol) {
  return __builtin_strcmp(symbol, ")" +
         symbol + R"(") ? -1 : )" + std::to_string(count + 1) + R"(;
}
EXPORT const char *moeplan_simt_launch(const unsigned grid[3], unsigned threads, void **arguments) {
  static std::string error;
  error = moeplan::simt::run({{grid[0], grid[1], grid[2]}, threads}, [&] { )" +
         symbol + "(" + arguments + R"(); });
  return error.empty() ? nullptr : error.c_str();
}
)";
}

bool compile(Program &program) {
  char folder[] = "/tmp/moeplan-simt-XXXXXX";
  if (!mkdtemp(folder))
    return false;
  const std::string base = folder;
  for (const auto &[name, text] : program.headers)
    if (name != "stdint.h") // the host has its own
      write(base + "/" + name, text);
  write(base + "/kernel.cpp", program.source + launcherOf(program.source));
  // Hidden: kernels of different images have the same names.
  const std::string command =
      MOEPLAN_SIMT_COMPILER " -std=c++20 -O1 -w -shared -fPIC "
                            "-fvisibility=hidden -DMOEPLAN_SIMT -I" +
      base + " -I" MOEPLAN_SIMT_SOURCES " -o " + base + "/kernel.so " + base +
      "/kernel.cpp " MOEPLAN_SIMT_LIBRARY " -Wl,-rpath," MOEPLAN_SIMT_FOLDER " 2> " + base + "/log";
  const bool done = std::system(command.c_str()) == 0;
  program.log = done ? "" : read(base + "/log");
  program.image = read(base + "/kernel.so");
  if (std::system(("rm -rf " + base).c_str()) != 0)
    return false;
  return done;
}

void copyTo(char *target, const std::string &text) {
  std::memcpy(target, text.data(), text.size());
}

} // namespace

extern "C" {

int nvrtcVersion(int *major, int *minor) {
  *major = 13;
  *minor = 99; // no version of NVIDIA's
  return kSuccess;
}
int nvrtcGetNumSupportedArchs(int *count) {
  *count = std::size(kArchitectures);
  return kSuccess;
}
int nvrtcGetSupportedArchs(int *architectures) {
  std::copy(std::begin(kArchitectures), std::end(kArchitectures), architectures);
  return kSuccess;
}
int nvrtcCreateProgram(void **program, const char *source, const char *, int count,
                       const char *const *headers, const char *const *names) {
  auto *created = new Program{source, {}, {}, {}};
  for (int i = 0; i < count; ++i)
    created->headers[names[i]] = headers[i];
  *program = created;
  return kSuccess;
}
int nvrtcDestroyProgram(void **program) {
  delete static_cast<Program *>(*program);
  *program = nullptr;
  return kSuccess;
}
int nvrtcCompileProgram(void *program, int, const char *const *) {
  return compile(*static_cast<Program *>(program)) ? kSuccess : kCompilation;
}
int nvrtcGetCUBINSize(void *program, size_t *bytes) {
  *bytes = static_cast<Program *>(program)->image.size();
  return *bytes ? kSuccess : kInvalidInput;
}
int nvrtcGetCUBIN(void *program, char *image) {
  copyTo(image, static_cast<Program *>(program)->image);
  return kSuccess;
}
int nvrtcGetPTXSize(void *program, size_t *bytes) {
  *bytes = static_cast<Program *>(program)->image.size() + 1;
  return kSuccess;
}
int nvrtcGetPTX(void *program, char *text) {
  copyTo(text, static_cast<Program *>(program)->image + '\0');
  return kSuccess;
}
int nvrtcGetProgramLogSize(void *program, size_t *bytes) {
  *bytes = static_cast<Program *>(program)->log.size() + 1;
  return kSuccess;
}
int nvrtcGetProgramLog(void *program, char *log) {
  copyTo(log, static_cast<Program *>(program)->log + '\0');
  return kSuccess;
}
const char *nvrtcGetErrorString(int result) {
  return result == kCompilation ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_INVALID_INPUT";
}
}
