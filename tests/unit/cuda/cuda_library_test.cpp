#include "runtime/device/cuda/kernels.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

/// The library of `targets` that a device of `capability` gets; else why it gets none.
std::string chosen(const std::vector<std::string> &targets, unsigned capability) {
  flatbuffers::FlatBufferBuilder builder;
  std::vector<flatbuffers::Offset<fb::KernelLibrary>> libraries;
  for (const std::string &target : targets) {
    const auto name = builder.CreateString(target);
    fb::KernelLibraryBuilder library(builder);
    library.add_target_cpu(name);
    library.add_machine(target == "x86-64" ? fb::Machine::cpu : fb::Machine::cuda);
    libraries.push_back(library.Finish());
  }
  const auto all = builder.CreateVector(libraries);
  fb::ArtifactBuilder artifact(builder);
  artifact.add_libraries(all);
  builder.Finish(artifact.Finish());
  auto library = chooseCudaLibrary(*flatbuffers::GetRoot<fb::Artifact>(builder.GetBufferPointer()),
                                   capability);
  return library.ok() ? library.value()->target_cpu()->str()
                      : std::string(library.failure().message());
}

TEST(CudaLibraryChoiceTest, TheNearestThatRuns) {
  const std::vector<std::string> all = {"x86-64", "sm_80",      "sm_86",     "sm_90",
                                        "sm_90a", "compute_80", "compute_90"};
  EXPECT_EQ(chosen(all, 90), "sm_90a");
  EXPECT_EQ(chosen(all, 86), "sm_86");
  EXPECT_EQ(chosen(all, 89), "sm_86") << "cubins run on later devices of their generation";
  EXPECT_EQ(chosen(all, 80), "sm_80");
  EXPECT_EQ(chosen(all, 100), "compute_90") << "a new generation translates PTX";
  EXPECT_EQ(chosen({"sm_90a", "compute_80"}, 89), "compute_80");
  EXPECT_EQ(chosen({"sm_90a", "sm_80"}, 90), "sm_90a");
}

TEST(CudaLibraryChoiceTest, NoneNamesWhatThereIs) {
  EXPECT_EQ(
      chosen({"x86-64", "sm_90a", "compute_90"}, 75),
      "no kernels for a device of compute capability 7.5; the artifact has sm_90a, compute_90");
  EXPECT_EQ(chosen({"sm_90a"}, 100),
            "no kernels for a device of compute capability 10.0; the artifact has sm_90a");
  EXPECT_EQ(chosen({"x86-64"}, 90),
            "the artifact has no kernels for CUDA devices; compile it with --target-cuda");
}

} // namespace
} // namespace moeplan::testing
