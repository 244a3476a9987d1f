#include "compiler/codegen/nvrtc.h"

#include "runtime/artifact/kernel_libraries.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"

#include <algorithm>
#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace fs = std::filesystem;

namespace {

using Program = void *; ///< nvrtcProgram

constexpr const char *kNames[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
constexpr const char *kOptions[] = {"--std=c++20", "--device-as-default-execution-space",
                                    "--ptxas-options=-v"};

/// The folders in `parent` whose names begin with `prefix`, the last name first.
std::vector<fs::path> foldersIn(const fs::path &parent, StringRef prefix) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end;
       entry.increment(error))
    if (StringRef(entry->path().filename().string()).starts_with(prefix))
      folders.push_back(entry->path());
  llvm::sort(folders, std::greater<>());
  return folders;
}

/// Where a toolkit or a Python package has its libraries.
std::vector<fs::path> libraryFolders() {
  std::vector<fs::path> folders;
  auto addToolkit = [&](const fs::path &toolkit) {
    folders.push_back(toolkit / "lib64");
    folders.push_back(toolkit / "targets/x86_64-linux/lib");
    folders.push_back(toolkit / "lib");
  };
  for (const char *variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char *toolkit = std::getenv(variable))
      addToolkit(toolkit);
  for (const fs::path &toolkit : foldersIn("/usr/local", "cuda"))
    addToolkit(toolkit);
  std::vector<fs::path> prefixes{"/usr/local/lib", "/usr/lib"};
  if (const char *home = std::getenv("HOME"))
    prefixes.insert(prefixes.begin(), fs::path(home) / ".local/lib");
  if (const char *environment = std::getenv("VIRTUAL_ENV"))
    prefixes.insert(prefixes.begin(), fs::path(environment) / "lib");
  for (const fs::path &prefix : prefixes)
    for (const fs::path &python : foldersIn(prefix, "python3"))
      for (const char *packages : {"site-packages", "dist-packages"})
        for (const char *package : {"cu13", "cuda_nvrtc"})
          folders.push_back(python / packages / "nvidia" / package / "lib");
  return folders;
}

/// The first error of a log, without the position of what caused it further down.
std::string firstError(StringRef log) {
  SmallVector<StringRef> lines;
  log.split(lines, '\n');
  for (StringRef line : lines)
    if (line.contains("error") || line.contains("fatal"))
      return line.trim().str();
  return log.trim().split('\n').first.str();
}

} // namespace

struct Nvrtc::Functions {
  int (*version)(int *, int *);
  int (*getNumSupportedArchs)(int *);
  int (*getSupportedArchs)(int *);
  int (*createProgram)(Program *, const char *, const char *, int, const char *const *,
                       const char *const *);
  int (*destroyProgram)(Program *);
  int (*compileProgram)(Program, int, const char *const *);
  int (*getPTXSize)(Program, size_t *);
  int (*getPTX)(Program, char *);
  int (*getCUBINSize)(Program, size_t *);
  int (*getCUBIN)(Program, char *);
  int (*getProgramLogSize)(Program, size_t *);
  int (*getProgramLog)(Program, char *);
  const char *(*getErrorString)(int);
};

Nvrtc::Nvrtc() : functions_(std::make_unique<Functions>()) {}
Nvrtc::~Nvrtc() = default;

ArrayRef<const char *> Nvrtc::options() { return kOptions; }

Error Nvrtc::load(void *library, std::string path) {
  path_ = std::move(path);
  Functions &f = *functions_;
  const std::pair<const char *, void **> symbols[] = {
      {"nvrtcVersion", reinterpret_cast<void **>(&f.version)},
      {"nvrtcGetNumSupportedArchs", reinterpret_cast<void **>(&f.getNumSupportedArchs)},
      {"nvrtcGetSupportedArchs", reinterpret_cast<void **>(&f.getSupportedArchs)},
      {"nvrtcCreateProgram", reinterpret_cast<void **>(&f.createProgram)},
      {"nvrtcDestroyProgram", reinterpret_cast<void **>(&f.destroyProgram)},
      {"nvrtcCompileProgram", reinterpret_cast<void **>(&f.compileProgram)},
      {"nvrtcGetPTXSize", reinterpret_cast<void **>(&f.getPTXSize)},
      {"nvrtcGetPTX", reinterpret_cast<void **>(&f.getPTX)},
      {"nvrtcGetCUBINSize", reinterpret_cast<void **>(&f.getCUBINSize)},
      {"nvrtcGetCUBIN", reinterpret_cast<void **>(&f.getCUBIN)},
      {"nvrtcGetProgramLogSize", reinterpret_cast<void **>(&f.getProgramLogSize)},
      {"nvrtcGetProgramLog", reinterpret_cast<void **>(&f.getProgramLog)},
      {"nvrtcGetErrorString", reinterpret_cast<void **>(&f.getErrorString)}};
  for (const auto &[name, address] : symbols)
    if (!(*address = dlsym(library, name)))
      return createStringError(path_ + ": has no " + name + ", NVRTC 12 or later is needed");
  int major = 0, minor = 0, count = 0;
  if (f.version(&major, &minor) || f.getNumSupportedArchs(&count) || count < 1)
    return createStringError(path_ + ": does not say what it compiles for");
  version_ = std::to_string(major) + "." + std::to_string(minor);
  capabilities_.resize(count);
  if (f.getSupportedArchs(capabilities_.data()))
    return createStringError(path_ + ": does not say what it compiles for");
  llvm::sort(capabilities_);
  return Error::success();
}

Expected<std::unique_ptr<Nvrtc>> Nvrtc::open() {
  std::unique_ptr<Nvrtc> nvrtc(new Nvrtc());
  auto loaded = [&](void *library, std::string path) -> Expected<std::unique_ptr<Nvrtc>> {
    if (Error error = nvrtc->load(library, std::move(path)))
      return error;
    return std::move(nvrtc);
  };
  if (const char *named = std::getenv("MOEPLAN_NVRTC"); named && *named) {
    if (void *library = dlopen(named, RTLD_NOW | RTLD_LOCAL))
      return loaded(library, named);
    const char *reason = dlerror();
    return createStringError(std::string("MOEPLAN_NVRTC: ") + (reason ? reason : named));
  }
  for (const char *name : kNames)
    if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL))
      return loaded(library, name);
  for (const fs::path &folder : libraryFolders())
    for (const char *name : kNames) {
      const std::string path = (folder / name).string();
      std::error_code error;
      if (!fs::exists(path, error))
        continue;
      if (void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL))
        return loaded(library, path);
    }
  return createStringError(
      "NVRTC, which makes code for CUDA devices, was not found: 'pip install nvidia-cuda-nvrtc' or "
      "install the CUDA toolkit, or name the library in MOEPLAN_NVRTC");
}

Error Nvrtc::checkTarget(StringRef target) const {
  const std::optional<CudaTarget> parsed = cudaTargetOf(target.str());
  if (parsed && is_contained(capabilities_, int(parsed->capability)) &&
      (!parsed->isSpecific || parsed->capability >= 90))
    return Error::success();
  std::vector<std::string> names;
  for (int capability : capabilities_)
    names.push_back("sm_" + std::to_string(capability));
  return createStringError("unknown CUDA target '" + target + "': NVRTC " + version_ + " has " +
                           join(names, ", ") + ", and these with an 'a' from sm_90 on");
}

Expected<Nvrtc::Output> Nvrtc::compile(const std::string &source, const std::string &name,
                                       ArrayRef<CudaHeader> headers,
                                       const std::string &target) const {
  const Functions &f = *functions_;
  std::vector<const char *> texts, names;
  for (const CudaHeader &header : headers) {
    texts.push_back(header.text.c_str());
    names.push_back(header.name.c_str());
  }
  Program program = nullptr;
  if (int code = f.createProgram(&program, source.c_str(), name.c_str(), int(headers.size()),
                                 texts.data(), names.data()))
    return createStringError(std::string("NVRTC: ") + f.getErrorString(code));
  const auto destroy = make_scope_exit([&] { f.destroyProgram(&program); });

  const std::string architecture = "--gpu-architecture=" + target;
  std::vector<const char *> options{architecture.c_str()};
  llvm::append_range(options, kOptions);
  const int result = f.compileProgram(program, int(options.size()), options.data());
  auto text = [&](auto sizeOf, auto get) {
    std::string bytes;
    size_t size = 0;
    if (sizeOf(program, &size) == 0 && size > 0) {
      bytes.resize(size);
      if (get(program, bytes.data()) != 0)
        bytes.clear();
    }
    return bytes;
  };
  Output output;
  output.log = StringRef(text(f.getProgramLogSize, f.getProgramLog)).rtrim('\0').str();
  if (result != 0)
    return createStringError(output.log.empty() ? std::string(f.getErrorString(result))
                                                : firstError(output.log));
  const bool isPtx = StringRef(target).starts_with("compute_");
  output.image = isPtx ? text(f.getPTXSize, f.getPTX) : text(f.getCUBINSize, f.getCUBIN);
  if (output.image.empty())
    return createStringError("NVRTC made no code");
  if (isPtx && output.image.back() != '\0')
    output.image.push_back('\0');
  return output;
}
