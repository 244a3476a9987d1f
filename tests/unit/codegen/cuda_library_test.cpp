// CUDA kernels out of templates and constants. What needs NVRTC is skipped where there is none.
#include "compiler/codegen/cuda_library.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace moeplan::testing {
namespace {

using namespace compiler;

KernelSpec scale() {
  return {"cuda_scale_8_64",
          "scale",
          {{"epsilon", 0.1}, {"features", int64_t(8)}, {"threads", int64_t(64)}},
          2,
          Machine::Cuda};
}
KernelSpec fill() { return {"cuda_fill_64", "fill", {{"threads", int64_t(64)}}, 1, Machine::Cuda}; }
KernelSpec ofCpu() { return {"rms_norm", "rms_norm", {}, 3, Machine::Cpu}; }

/// Two kernels in the place of those of kernels/cuda.
std::vector<CudaHeader> headers() {
  std::vector<CudaHeader> headers;
  for (const CudaHeader &header : cudaHeaders())
    if (header.name == "kernel_abi.h" || header.name == "stdint.h")
      headers.push_back(header);
  headers.push_back({"kernels.cuh", R"(
#include "kernel_abi.h"
namespace moeplan {
template <class C> __device__ void scale(const moeplan_step *step, void *in, void *out) {
  const int i = blockIdx.x * C::threads + threadIdx.x;
  if (i < C::features * (long long)step->token_count)
    static_cast<float *>(out)[i] = static_cast<const float *>(in)[i] * float(C::epsilon);
}
template <class C> __device__ void fill(const moeplan_step *, void *out) {
  static_cast<float *>(out)[blockIdx.x * C::threads + threadIdx.x] = 1;
}
} // namespace moeplan
)"});
  return headers;
}

class CudaLibraryTest : public ::testing::Test {
protected:
  void SetUp() override {
    auto opened = Nvrtc::open();
    if (!opened) {
      const std::string reason = llvm::toString(opened.takeError());
      GTEST_SKIP() << reason;
    }
    nvrtc = std::move(*opened);
  }

  llvm::Expected<std::vector<CudaLibrary>> compile(const std::vector<KernelSpec> &kernels,
                                                   const std::vector<std::string> &targets,
                                                   const std::string &cache = "") const {
    const std::vector<CudaHeader> given = headers();
    auto opened = llvm::cantFail(compiler::BuildCache::open(cache, 1 << 30));
    return compileCudaKernels(*nvrtc, kernels, targets, {given, 2, opened.get()});
  }
  std::string refusal(const KernelSpec &kernel, const std::string &target = "sm_80") const {
    auto libraries = compile({kernel}, {target});
    return libraries ? "" : llvm::toString(libraries.takeError());
  }

  std::unique_ptr<Nvrtc> nvrtc;
};

TEST(CudaSourceTest, ConstantsAreAType) {
  EXPECT_EQ(cudaSourceOf(scale()),
            R"(#include "kernels.cuh"

struct C {
  static constexpr double epsilon = 0x1.999999999999ap-4;
  static constexpr long long features = 8;
  static constexpr long long threads = 64;
};

extern "C" __global__ void __launch_bounds__(C::threads) cuda_scale_8_64(const moeplan_step *step, void *b0, void *b1) {
  moeplan::scale<C>(step, b0, b1);
}
)");
}

TEST(CudaSourceTest, ResourcesAreReadFromTheLog) {
  const KernelResources resources = KernelResources::parse(
      "ptxas info    : Function properties for cuda_x\n"
      "    24 bytes stack frame, 20 bytes spill stores, 28 bytes spill loads\n"
      "ptxas info    : Used 168 registers, used 1 barriers, 4160 bytes smem, 376 bytes cmem[0]\n");
  EXPECT_EQ(resources.registers, 168u);
  EXPECT_EQ(resources.sharedBytes, 4160u);
  EXPECT_EQ(resources.spillBytes, 48u);
  const KernelResources none = KernelResources::parse("");
  EXPECT_FALSE(none.registers);
  EXPECT_EQ(none.spillBytes, 0u);
}

TEST(CudaSourceTest, PtxIsOfTheNewestTarget) {
  EXPECT_EQ(withPtx({"sm_90a", "sm_80"}),
            (std::vector<std::string>{"sm_90a", "sm_80", "compute_90"}));
  EXPECT_TRUE(withPtx({}).empty());
}

TEST(CudaSourceTest, WithoutNvrtcTheErrorSaysHowToGetIt) {
  const char *named = std::getenv("MOEPLAN_NVRTC");
  const std::string before = named ? named : "";
  setenv("MOEPLAN_NVRTC", "/nowhere/libnvrtc.so", 1);
  auto nvrtc = Nvrtc::open();
  if (named)
    setenv("MOEPLAN_NVRTC", before.c_str(), 1);
  else
    unsetenv("MOEPLAN_NVRTC");
  ASSERT_FALSE(nvrtc);
  const std::string message = llvm::toString(nvrtc.takeError());
  EXPECT_TRUE(llvm::StringRef(message).starts_with("MOEPLAN_NVRTC: /nowhere/libnvrtc.so"))
      << message;
}

TEST_F(CudaLibraryTest, ImagesLieOneBehindTheOther) {
  auto libraries = compile({scale(), ofCpu(), fill()}, withPtx({"sm_80", "sm_90a"}));
  ASSERT_TRUE(bool(libraries)) << llvm::toString(libraries.takeError());
  ASSERT_EQ(libraries->size(), 3u);
  for (const CudaLibrary &library : *libraries) {
    ASSERT_EQ(library.codeBytes.size(), 3u);
    EXPECT_GT(library.codeBytes[0], 0u);
    EXPECT_EQ(library.codeBytes[1], 0u);
    const size_t second = (library.codeBytes[0] + 15) / 16 * 16;
    EXPECT_EQ(library.code.size(), second + library.codeBytes[2]);
  }
  const CudaLibrary &ptx = libraries->back();
  EXPECT_EQ(ptx.target, "compute_90");
  EXPECT_EQ(ptx.code.back(), '\0');
}

TEST_F(CudaLibraryTest, TheSameInputsGiveTheSameBytes) {
  auto first = compile({scale(), fill()}, {"sm_90a"}),
       second = compile({scale(), fill()}, {"sm_90a"});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->front().code, second->front().code);
}

TEST_F(CudaLibraryTest, ErrorsNameKernelAndTarget) {
  KernelSpec unknown = scale();
  unknown.implementation = "nothing";
  llvm::StringRef where = "kernel cuda_scale_8_64 for sm_80: ";
  EXPECT_TRUE(llvm::StringRef(refusal(unknown)).starts_with(where)) << refusal(unknown);
  KernelSpec incomplete = scale();
  incomplete.constants.erase(incomplete.constants.begin());
  EXPECT_NE(refusal(incomplete).find("epsilon"), std::string::npos) << refusal(incomplete);
  EXPECT_EQ(refusal(incomplete).find('\n'), std::string::npos);
  KernelSpec unbound = scale();
  unbound.bindings = 3;
  EXPECT_TRUE(llvm::StringRef(refusal(unbound)).starts_with(where)) << refusal(unbound);
  const std::string target = refusal(scale(), "sm_1");
  EXPECT_TRUE(llvm::StringRef(target).starts_with("unknown CUDA target 'sm_1': NVRTC ")) << target;
}

TEST_F(CudaLibraryTest, TheCacheGivesWhatWasCompiled) {
  TemporaryDirectory directory;
  const std::string cache = directory.path() / "cache", other = directory.path() / "other";
  auto first = compile({scale()}, {"sm_80"}, cache);
  ASSERT_TRUE(bool(first)) << llvm::toString(first.takeError());
  ASSERT_EQ(filesBelow(cache).size(), 1u);
  // Another image under the same key shows that the cache was asked.
  auto filled = compile({fill()}, {"sm_80"}, other);
  ASSERT_TRUE(bool(filled));
  std::filesystem::copy_file(filesBelow(other).front(), filesBelow(cache).front(),
                             std::filesystem::copy_options::overwrite_existing);
  auto second = compile({scale()}, {"sm_80"}, cache);
  ASSERT_TRUE(bool(second));
  EXPECT_EQ(second->front().code, filled->front().code);
  // Another target is another entry.
  ASSERT_TRUE(bool(compile({scale()}, {"sm_90a"}, cache)));
  EXPECT_EQ(filesBelow(cache).size(), 2u);
}

} // namespace
} // namespace moeplan::testing
