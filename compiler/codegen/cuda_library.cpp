#include "compiler/codegen/cuda_library.h"

#include "compiler/codegen/image_cache.h"
#include "runtime/artifact/kernel_libraries.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Regex.h"
#include "llvm/Support/ThreadPool.h"

#include <cstdio>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Sum of the numbers that `pattern` captures in `text`; nothing where it does not occur.
std::optional<uint32_t> sumOf(StringRef text, StringRef pattern) {
  const Regex regex(pattern);
  std::optional<uint32_t> sum;
  SmallVector<StringRef> match;
  while (regex.match(text, &match)) {
    uint32_t value = 0;
    if (!match[1].getAsInteger(10, value))
      sum = sum.value_or(0) + value;
    text = text.drop_front(match[0].end() - text.begin());
  }
  return sum;
}

std::string literal(const std::variant<int64_t, double> &value) {
  if (const auto *integer = std::get_if<int64_t>(&value))
    return std::to_string(*integer);
  char text[64]; // hexadecimal: exactly this number
  std::snprintf(text, sizeof text, "%a", std::get<double>(value));
  return text;
}

/// One kernel for one target.
struct Job {
  const KernelSpec *kernel;
  const std::string *target;
  Nvrtc::Output output = {};
  std::string error = {};

  void run(const Nvrtc &nvrtc, ArrayRef<CudaHeader> headers, BuildCache &cache) {
    const std::string source = cudaSourceOf(*kernel);
    const CacheKey key = imageKey(nvrtc, source, headers, *target);
    if (std::optional<Nvrtc::Output> found = findImage(cache, key)) {
      output = std::move(*found);
      return;
    }
    auto compiled = nvrtc.compile(source, kernel->symbol + ".cu", headers, *target);
    if (!compiled) {
      error = toString(compiled.takeError());
      return;
    }
    output = std::move(*compiled);
    storeImage(cache, key, output);
  }
};

CudaLibrary libraryOf(ArrayRef<KernelSpec> kernels, const std::string &target, ArrayRef<Job> jobs) {
  CudaLibrary library{target, {}, {}, {}};
  const Job *job = jobs.begin();
  for (const KernelSpec &kernel : kernels) {
    library.codeBytes.push_back(0);
    library.resources.emplace_back();
    if (kernel.machine != Machine::Cuda)
      continue;
    library.code.resize(alignTo(library.code.size(), kImageAlignment));
    library.code += job->output.image;
    library.codeBytes.back() = uint32_t(job->output.image.size());
    library.resources.back() = KernelResources::parse(job->output.log);
    ++job;
  }
  return library;
}

} // namespace

KernelResources KernelResources::parse(StringRef log) {
  KernelResources resources;
  resources.registers = sumOf(log, "Used ([0-9]+) registers");
  resources.sharedBytes = sumOf(log, "([0-9]+) bytes smem").value_or(0);
  resources.spillBytes = sumOf(log, "([0-9]+) bytes spill (stores|loads)").value_or(0);
  return resources;
}

std::vector<std::string> moeplan::compiler::withPtx(ArrayRef<std::string> targets) {
  std::vector<std::string> all(targets.begin(), targets.end());
  unsigned newest = 0;
  for (const std::string &target : targets)
    if (const std::optional<CudaTarget> parsed = cudaTargetOf(target))
      newest = std::max(newest, parsed->capability);
  if (newest > 0)
    all.push_back("compute_" + std::to_string(newest));
  return all;
}

std::string moeplan::compiler::cudaSourceOf(const KernelSpec &kernel) {
  std::string source = "#include \"kernels.cuh\"\n\nstruct C {\n";
  for (const auto &[name, value] : kernel.constants)
    source += std::string("  static constexpr ") +
              (std::holds_alternative<double>(value) ? "double " : "long long ") + name + " = " +
              literal(value) + ";\n";
  std::string parameters = "const moeplan_step *step", arguments = "step";
  for (unsigned i = 0; i < kernel.bindings; ++i) {
    parameters += ", void *b" + std::to_string(i);
    arguments += ", b" + std::to_string(i);
  }
  source += "};\n\nextern \"C\" __global__ void __launch_bounds__(C::threads) " + kernel.symbol +
            "(" + parameters + ") {\n  moeplan::" + kernel.implementation + "<C>(" + arguments +
            ");\n}\n";
  return source;
}

Expected<std::vector<CudaLibrary>>
moeplan::compiler::compileCudaKernels(const Nvrtc &nvrtc, ArrayRef<KernelSpec> kernels,
                                      ArrayRef<std::string> targets, const CudaOptions &options) {
  if (none_of(options.headers,
              [](const CudaHeader &header) { return header.name == "kernels.cuh"; }))
    return createStringError("this moeplanc was built without CUDA kernels");
  for (const std::string &target : targets)
    if (Error error = nvrtc.checkTarget(target))
      return error;
  BuildCache none;
  BuildCache &cache = options.cache ? *options.cache : none;
  std::vector<Job> jobs;
  for (const std::string &target : targets)
    for (const KernelSpec &kernel : kernels)
      if (kernel.machine == Machine::Cuda)
        jobs.push_back({&kernel, &target});
  {
    DefaultThreadPool pool(hardware_concurrency(options.threads));
    for (Job &job : jobs)
      pool.async([&job, &nvrtc, &options, &cache] { job.run(nvrtc, options.headers, cache); });
    pool.wait();
  }
  for (const Job &job : jobs)
    if (!job.error.empty())
      return createStringError("kernel " + job.kernel->symbol + " for " + *job.target + ": " +
                               job.error);
  std::vector<CudaLibrary> libraries;
  const size_t perTarget = targets.empty() ? 0 : jobs.size() / targets.size();
  for (auto [index, target] : enumerate(targets))
    libraries.push_back(
        libraryOf(kernels, target, ArrayRef(jobs).slice(index * perTarget, perTarget)));
  return libraries;
}
