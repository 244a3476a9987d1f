// What is said of CUDA kernels once they are compiled.
#include "compiler/driver/cuda.h"

#include <gtest/gtest.h>

namespace moeplan::compiler {
namespace {

/// A kernel of decoding and one of long prompts, between two of CPUs: both spill on sm_90a.
CudaReport report() {
  auto kernel = [](const char *symbol, int64_t maxTokens, Machine machine) {
    return KernelSpec{
        symbol, "linear", {{"max_tokens", maxTokens}, {"threads", int64_t(256)}}, 4, machine};
  };
  const std::vector<KernelSpec> kernels{
      kernel("cpu_1", 1, Machine::Cpu), kernel("cuda_8", 8, Machine::Cuda),
      kernel("cpu_2", 1, Machine::Cpu), kernel("cuda_512", 512, Machine::Cuda)};
  const KernelResources fine{64, 2048, 0}, spilling{255, 0, 48}, unknown;
  const std::vector<CudaLibrary> libraries{
      {"sm_80", "", {0, 100, 0, 200}, {unknown, fine, unknown, fine}},
      {"sm_90a", "", {0, 101, 0, 201}, {unknown, spilling, unknown, spilling}},
      {"compute_90", "", {0, 102, 0, 202}, {unknown, unknown, unknown, unknown}}};
  return cudaReportOf(kernels, libraries);
}

TEST(CudaReportTest, KernelsOfCpusAreNotInIt) {
  const CudaReport made = report();
  ASSERT_EQ(made.kernels.size(), 2u);
  EXPECT_EQ(made.kernels[0].symbol, "cuda_8");
  EXPECT_EQ(made.kernels[0].imageBytes, (std::vector<uint32_t>{100, 101, 102}));
  EXPECT_EQ(made.kernels[1].imageBytes, (std::vector<uint32_t>{200, 201, 202}));
  EXPECT_TRUE(cudaReportOf({}, {}).kernels.empty());
}

TEST(CudaReportTest, OnlySpillsOfDecodingAreWarnedOf) {
  EXPECT_EQ(spillWarnings(report()),
            (std::vector<std::string>{"warning: cuda_8 spills 48 bytes of registers on sm_90a: "
                                      "decoding will be slower than it could be"}));
}

TEST(CudaReportTest, WhatMakesWeightsIsNotDecoding) {
  const CudaLibrary library{"sm_80", "", {5}, {KernelResources{64, 0, 32}}};
  KernelSpec kernel{"cuda_x", "add", {}, 1, Machine::Cuda};
  EXPECT_EQ(spillWarnings(cudaReportOf(kernel, library)).size(), 1u);
  kernel.implementation = "generate_weight";
  EXPECT_TRUE(spillWarnings(cudaReportOf(kernel, library)).empty());
}

TEST(CudaReportTest, ATableHasWhatPtxasSaid) {
  EXPECT_EQ(printCuda(report()),
            "CUDA kernel  sm_80 registers   shared  spills  sm_90a registers  shared  spills\n"
            "cuda_8                    64  2.0 KiB       -               255       -    48 B\n"
            "cuda_512                  64  2.0 KiB       -               255       -    48 B\n");
}

TEST(CudaReportTest, WithoutFiguresOfPtxasThereIsAQuestionMark) {
  const CudaLibrary library{"sm_80", "", {5}, {KernelResources()}};
  const KernelSpec kernel{"cuda_x", "add", {}, 3, Machine::Cuda};
  EXPECT_EQ(printCuda(cudaReportOf(kernel, library)),
            "CUDA kernel  sm_80 registers  shared  spills\n"
            "cuda_x                     ?       -       -\n");
}

} // namespace
} // namespace moeplan::compiler
