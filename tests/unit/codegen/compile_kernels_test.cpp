#include "compiler/codegen/kernel_library.h"
#include "runtime/device/kernel_module.h"

#include <gtest/gtest.h>

namespace moeplan::compiler {
namespace {

CpuTarget baseline() {
  auto target = resolveCpuTarget("x86-64-v2");
  EXPECT_TRUE(bool(target));
  return *target;
}

KernelSpec embedding() {
  return {"embed",
          "embedding",
          {{"features", int64_t(8)}, {"vocab_size", int64_t(4)}, {"weight_format", int64_t(1)}},
          3};
}

KernelSpec rmsNorm() {
  return {"norm",
          "rms_norm",
          {{"features", int64_t(8)}, {"epsilon", 1e-5}, {"logits_rows", int64_t(0)}},
          3};
}

std::string refusal(const KernelSpec &spec) {
  auto library = compileKernels({embedding(), spec}, baseline());
  return library ? "compiled" : llvm::toString(library.takeError());
}

TEST(CompileKernelsTest, AnUnknownMicroKernelIsRefused) {
  KernelSpec spec = rmsNorm();
  spec.implementation = "softmax";
  EXPECT_EQ(refusal(spec), "kernel norm: there is no micro-kernel 'softmax'");
}

TEST(CompileKernelsTest, AMissingConstantIsNamed) {
  KernelSpec spec = rmsNorm();
  spec.constants.erase(spec.constants.begin() + 1);
  EXPECT_EQ(refusal(spec), "kernel norm: constant 'epsilon' is missing");
}

TEST(CompileKernelsTest, AnUnknownConstantIsNamed) {
  KernelSpec spec = rmsNorm();
  spec.constants.emplace_back("gamma", int64_t(1));
  EXPECT_EQ(refusal(spec), "kernel norm: micro-kernel 'rms_norm' has no constant 'gamma'");
}

TEST(CompileKernelsTest, AConstantOfTheWrongTypeIsNamed) {
  KernelSpec spec = rmsNorm();
  spec.constants[1].second = int64_t(1);
  EXPECT_EQ(refusal(spec), "kernel norm: constant 'epsilon' must be a float");
  spec = rmsNorm();
  spec.constants[0].second = 8.0;
  EXPECT_EQ(refusal(spec), "kernel norm: constant 'features' must be an integer");
}

TEST(CompileKernelsTest, AWrongNumberOfOperandsIsRefused) {
  KernelSpec spec = rmsNorm();
  spec.bindings = 4;
  EXPECT_EQ(refusal(spec), "kernel norm: takes 3 operands, dispatched with 4");
}

TEST(CompileKernelsTest, TheSameKernelsGiveTheSameBytes) {
  const std::vector<KernelSpec> specs{embedding(), rmsNorm()};
  for (const char *cpu : {"x86-64-v2", "x86-64-v4", "host"}) {
    auto target = resolveCpuTarget(cpu);
    ASSERT_TRUE(bool(target));
    auto first = compileKernels(specs, *target), second = compileKernels(specs, *target);
    ASSERT_TRUE(bool(first) && bool(second));
    EXPECT_EQ(first->elf, second->elf) << cpu;
    EXPECT_EQ(first->codeBytes, second->codeBytes) << cpu;
  }
}

TEST(CompileKernelsTest, ALibraryExportsItsKernelsAndNoOthers) {
  auto library = compileKernels({embedding(), rmsNorm()}, baseline());
  ASSERT_TRUE(bool(library)) << llvm::toString(library.takeError());
  auto module = KernelModule::load(std::as_bytes(std::span(library->elf)));
  ASSERT_TRUE(module.ok()) << module.failure().message();
  EXPECT_TRUE(module.value()->kernel("embed").ok());
  EXPECT_TRUE(module.value()->kernel("norm").ok());
  EXPECT_FALSE(module.value()->kernel("moeplan_cpu_embedding").ok());
  EXPECT_FALSE(module.value()->kernel("moeplan_cpu_linear").ok());
}

TEST(CompileKernelsTest, CodeSizesAreTheKernels) {
  auto library = compileKernels({embedding(), rmsNorm()}, baseline());
  ASSERT_TRUE(bool(library)) << llvm::toString(library.takeError());
  ASSERT_EQ(library->codeBytes.size(), 2u);
  for (uint32_t bytes : library->codeBytes) {
    EXPECT_GT(bytes, 0u);
    EXPECT_LT(bytes, library->elf.size());
  }
  EXPECT_EQ(library->target.cpu, "x86-64-v2");
}

} // namespace
} // namespace moeplan::compiler
