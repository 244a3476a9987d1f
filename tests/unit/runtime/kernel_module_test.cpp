#include "runtime/device/kernel_module.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <random>

namespace moeplan::testing {
namespace {

std::string library(const char *name) {
  return readFile(std::string(MOEPLAN_TEST_LIBRARY_DIR "/libmoeplan_test_kernels_") + name + ".so");
}

Result<std::unique_ptr<KernelModule>> load(const std::string &bytes) {
  return KernelModule::load(std::as_bytes(std::span(bytes)));
}

TEST(KernelModuleTest, KernelsRunOnceLoaded) {
  auto module = load(library("complete"));
  ASSERT_TRUE(module.ok()) << module.failure().message();
  auto kernel = module.value()->kernel("record");
  ASSERT_TRUE(kernel.ok()) << kernel.failure().message();
  uint64_t out[3] = {};
  void *bindings[] = {out};
  const moeplan_step step{7, 0, 0, 0};
  kernel.value()(bindings, &step, 3, 5);
  EXPECT_EQ(out[0], 7u);
  EXPECT_EQ(out[1], 3u);
  EXPECT_EQ(out[2], 5u);
}

TEST(KernelModuleTest, LibrariesAreIndependent) {
  const std::string bytes = library("complete");
  auto first = load(bytes), second = load(bytes);
  ASSERT_TRUE(first.ok() && second.ok());
  const moeplan_kernel_fn kernel = second.value()->kernel("record").value();
  std::move(first).value().reset();
  uint64_t out[3] = {};
  void *bindings[] = {out};
  const moeplan_step step{1, 0, 0, 0};
  kernel(bindings, &step, 0, 9);
  EXPECT_EQ(out[2], 9u);
}

TEST(KernelModuleTest, ALibraryIsNeverTakenForOneThatIsLoadedAlready) {
  auto first = load(library("complete"));
  ASSERT_TRUE(first.ok());
  auto other = load(library("other_abi"));
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.failure().code(), MOEPLAN_UNSUPPORTED);
}

TEST(KernelModuleTest, AKernelThatIsNotThereIsNamed) {
  auto module = load(library("complete"));
  ASSERT_TRUE(module.ok());
  auto kernel = module.value()->kernel("absent");
  ASSERT_FALSE(kernel.ok());
  EXPECT_EQ(kernel.failure().code(), MOEPLAN_CORRUPT);
  EXPECT_EQ(kernel.failure().message(), "kernel library lacks kernel 'absent'");
}

TEST(KernelModuleTest, AnotherAbiVersionIsRefused) {
  auto module = load(library("other_abi"));
  ASSERT_FALSE(module.ok());
  EXPECT_EQ(module.failure().code(), MOEPLAN_UNSUPPORTED);
  EXPECT_EQ(module.failure().message(),
            "kernel library has ABI version " + std::to_string(MOEPLAN_KERNEL_ABI_VERSION + 1) +
                ", this runtime needs " + std::to_string(MOEPLAN_KERNEL_ABI_VERSION));
}

TEST(KernelModuleTest, ALibraryWithoutAbiVersionIsRefused) {
  auto module = load(library("no_abi"));
  ASSERT_FALSE(module.ok());
  EXPECT_EQ(module.failure().code(), MOEPLAN_CORRUPT);
  EXPECT_EQ(module.failure().message(), "kernel library states no ABI version");
}

TEST(KernelModuleTest, BytesThatAreNoSharedObjectAreRefused) {
  std::mt19937_64 random(1);
  std::string noise(5000, '\0');
  for (char &c : noise)
    c = char(random());
  const std::string elf = library("complete");
  std::string wrongMachine = elf;
  wrongMachine[18] = 8; // e_machine: MIPS
  for (const std::string &bytes : {std::string(), std::string("kernels"), noise, elf.substr(0, 4),
                                   elf.substr(0, 63), elf.substr(0, 64) + noise, wrongMachine}) {
    auto module = load(bytes);
    ASSERT_FALSE(module.ok());
    EXPECT_TRUE(module.failure().message().starts_with("cannot load kernels: "))
        << module.failure().message();
    EXPECT_EQ(module.failure().message().find('\n'), std::string::npos);
  }
}

} // namespace
} // namespace moeplan::testing
