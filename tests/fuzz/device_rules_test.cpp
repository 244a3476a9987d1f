// Artifacts for CUDA devices that are wrong in one place: one case per rule of runtime/artifact.
#include "kernel_abi.h"
#include "runtime/artifact/kernel_libraries.h"
#include "runtime/artifact/programs.h"
#include "tests/fuzz/refusal.h"
#include "tests/support/artifact_builder.h"

#include <gtest/gtest.h>

#include <functional>

namespace moeplan::testing {
namespace {

/// A CPU kernel and two CUDA kernels with libraries, and a program that dispatches one of them.
ArtifactDraft deviceDraft(const std::vector<std::pair<std::string, int64_t>> &constants = {
                              {"threads", 128}}) {
  ArtifactDraft draft;
  draft.kernels = {{"k", 1}};
  draft.addCudaKernel("cuda_a", 1, "test", constants);
  draft.addCudaKernel("cuda_b", 1);
  draft.addCudaLibrary("sm_90a", {"first", "second image of more than 16 bytes"});
  draft.addCudaLibrary("compute_90", {std::string("ptx\0", 4), std::string("ptx!\0", 5)});
  ProgramDraft &program = draft.addDeviceProgram();
  program.arenaBytes = 256;
  program.commands = {dispatch(1, 1, {arena(0, 256)}, /*perToken=*/true)};
  return draft;
}

std::string deviceRefusal(const std::function<void(ArtifactDraft &)> &change) {
  ArtifactDraft draft = deviceDraft();
  change(draft);
  return refusal(draft.build());
}

std::string launchRefusal(const std::vector<std::pair<std::string, int64_t>> &constants) {
  return refusal(deviceDraft(constants).build());
}

TEST(DeviceRulesTest, TheDraftBreaksNoRule) {
  EXPECT_EQ(refusal(deviceDraft().build()), "");
  EXPECT_EQ(deviceRefusal([](ArtifactDraft &d) { d.addDeviceProgram("device_prefill", 65535); }),
            "");
}

TEST(DeviceRulesTest, Launches) {
  EXPECT_EQ(launchRefusal({{"threads", 1}, {"shared_bytes", 0}}), "");
  EXPECT_EQ(launchRefusal({{"threads", 1024}, {"shared_bytes", 227 * 1024}}), "");
  EXPECT_EQ(launchRefusal({}), "kernel 'cuda_a': threads is 0");
  EXPECT_EQ(launchRefusal({{"threads", 0}}), "kernel 'cuda_a': threads is 0");
  EXPECT_EQ(launchRefusal({{"threads", 1025}}), "kernel 'cuda_a': threads is 1025");
  EXPECT_EQ(launchRefusal({{"threads", 1}, {"shared_bytes", 227 * 1024 + 1}}),
            "kernel 'cuda_a': shared_bytes is 232449");
  EXPECT_EQ(launchRefusal({{"threads", 1}, {"shared_bytes", -1}}),
            "kernel 'cuda_a': shared_bytes is -1");
}

TEST(DeviceRulesTest, MachinesAreKnownAndComplete) {
  EXPECT_EQ(deviceRefusal([](auto &d) { d.kernels[0].machine = fb::Machine(2); }),
            "kernel 'k': unknown machine");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries[1].machine = fb::Machine(2); }),
            "a kernel library is for an unknown machine");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries.erase(d.libraries.begin()); }),
            "no kernel library");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries.resize(1); }),
            "kernels for CUDA devices without a kernel library");
  EXPECT_EQ(deviceRefusal([](auto &d) {
              d.kernels.resize(1);
              d.plans[0].devicePrograms.clear();
            }),
            "a kernel library for CUDA devices without kernels");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.featureBits = 0; }),
            "feature bits 4 expected, the header has 0");
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.featureBits = kFeatureDeviceKernels; }),
            "feature bits 0 expected, the header has 4");
}

TEST(DeviceRulesTest, Images) {
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries[1].targetCpu = "x86-64"; }),
            "the kernel library for x86-64: is for no CUDA target");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries[1].codeSizes = {{0, 5, 0}}; }),
            "the kernel library for sm_90a has no code for kernel 'cuda_b'");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries[1].codeSizes = {{1, 5, 34}}; }),
            "the kernel library for sm_90a has code for kernel 'k' of another machine");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries[0].codeSizes = {{1, 1, 0}}; }),
            "the kernel library for test has code for kernel 'cuda_a' of another machine");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries[1].codeSizes = {{0, 17, 34}}; }),
            "the kernel library for sm_90a: has images of 66 bytes in a segment of 50");
  EXPECT_EQ(deviceRefusal([](auto &d) { d.libraries[1].codeSizes = {{0, 5, 33}}; }),
            "the kernel library for sm_90a: has images of 49 bytes in a segment of 50");
}

TEST(DeviceRulesTest, ProgramsDispatchKernelsOfTheirMachine) {
  EXPECT_EQ(deviceRefusal([](auto &d) { d.plans[0].devicePrograms[0].commands[0].kernel = 0; }),
            "plan 'default': program 'device_decode': command 0: its kernel is of another machine");
  EXPECT_EQ(deviceRefusal([](auto &d) {
              d.program().commands = {dispatch(1, 1, {arena(0, 64)})};
              d.program().arenaBytes = 64;
            }),
            "plan 'default': program 'decode': command 0: its kernel is of another machine");
}

TEST(DeviceRulesTest, DeviceProgramsFollowTheRulesOfPrograms) {
  const char *order = "plan 'default': programs are not in order of max_tokens, from 1";
  EXPECT_EQ(deviceRefusal([](auto &d) { d.plans[0].devicePrograms[0].maxTokens = 2; }), order);
  EXPECT_EQ(deviceRefusal([](auto &d) { d.addDeviceProgram("again", 1); }), order);
  EXPECT_EQ(deviceRefusal([](auto &d) { d.addDeviceProgram("huge", 65536); }), order);
  EXPECT_EQ(deviceRefusal([](auto &d) { d.plans[0].devicePrograms[0].arenaBytes = 128; }),
            "plan 'default': program 'device_decode': command 0: an operand reaches beyond its "
            "memory");
  for (fb::KvFormat format : {fb::KvFormat::f32, fb::KvFormat::int8})
    EXPECT_EQ(deviceRefusal([&](auto &d) { d.model.kvCacheFormat = format; }),
              "plan 'default': device programs, but the KV cache is not bf16");
  // A format that a kernel of a device program cannot read.
  ArtifactDraft draft = deviceDraft({{"threads", 128}, {"weight_format", MOEPLAN_FORMAT_BF16}});
  draft.plans[0].devicePrograms[0].commands = {
      dispatch(1, 1, {operand(fb::BindingKind::segment, ArtifactDraft::kUp, 0, 96)})};
  EXPECT_EQ(refusal(draft.build()),
            "plan 'default': program 'device_decode': kernel 'cuda_a' reads bf16, segment 'up' is "
            "f32");
}

TEST(DeviceRulesTest, ExpertsAreFetchedWherePlansHaveSlots) {
  const std::string nothing =
      "plan 'default': program 'device_decode': command 0: an operand names "
      "nothing that exists";
  const auto withSlots = [](fb::MissStrategy strategy, uint32_t layer, uint64_t bytes = 0) {
    return deviceRefusal([&](ArtifactDraft &d) {
      d.plans[0].missStrategy = strategy;
      d.plans[0].cacheSlots = strategy == fb::MissStrategy::cached ? 1 : 0;
      d.plans[0].devicePrograms[0].commands = {dispatch(
          1, 1, {operand(fb::BindingKind::expert_slots, layer, 0, bytes, fb::Access::read_write)})};
    });
  };
  EXPECT_EQ(withSlots(fb::MissStrategy::stream, 1), "");
  EXPECT_EQ(withSlots(fb::MissStrategy::cached, 0), "");
  EXPECT_EQ(withSlots(fb::MissStrategy::cached, 2), nothing);
  EXPECT_EQ(withSlots(fb::MissStrategy::in_place, 0), nothing);
  EXPECT_EQ(withSlots(fb::MissStrategy::none, 0), nothing);
  EXPECT_NE(withSlots(fb::MissStrategy::stream, 0, 4), "");
}

/// A device program that gives the host `commands`, then waits for it.
std::string hostWorkRefusal(std::vector<CommandDraft> commands, uint64_t pinnedBytes = 128,
                            std::optional<uint64_t> features = {}) {
  return deviceRefusal([&](ArtifactDraft &d) {
    ProgramDraft &program = d.plans[0].devicePrograms[0];
    program.pinnedArenaBytes = pinnedBytes;
    program.commands = std::move(commands);
    program.commands.push_back({fb::Command::Join});
    d.featureBits = features;
  });
}

TEST(DeviceRulesTest, TheHostIsGivenWhatItReaches) {
  const auto pinned = [](uint64_t offset, uint64_t bytes) {
    return operand(fb::BindingKind::pinned_arena, 0, offset, bytes, fb::Access::read_write);
  };
  const std::string where = "plan 'default': program 'device_decode': command 0: ";
  EXPECT_EQ(hostWorkRefusal({dispatch(0, 1, {pinned(64, 64)})}), "");
  EXPECT_EQ(hostWorkRefusal({dispatch(1, 1, {pinned(0, 128)})}), "")
      << "the device reaches it, too";
  EXPECT_EQ(hostWorkRefusal({dispatch(0, 1, {pinned(64, 65)})}),
            where + "an operand reaches beyond its memory");
  EXPECT_EQ(hostWorkRefusal({dispatch(0, 1, {pinned(32, 64)})}),
            where + "an operand names nothing that exists");
  for (const fb::BindingKind kind :
       {fb::BindingKind::arena, fb::BindingKind::segment, fb::BindingKind::keys,
        fb::BindingKind::tokens, fb::BindingKind::logits, fb::BindingKind::candidates})
    EXPECT_EQ(hostWorkRefusal({dispatch(0, 1, {operand(kind, 0, 0, 0)})}),
              where + "an operand is out of the host's reach");
  // Its table of experts is its own.
  EXPECT_EQ(hostWorkRefusal({dispatch(
                0, 1, {operand(fb::BindingKind::experts, 0, 0, 0, fb::Access::read_write)})}),
            where + "an operand is written but read-only");
  EXPECT_EQ(hostWorkRefusal({copy(pinned(0, 64), pinned(64, 64))}),
            where + "copies what kernels reach where it is");
  EXPECT_EQ(hostWorkRefusal({dispatch(0, 1, {arena(0, 64)})}, 0),
            where + "its kernel is of another machine");
  EXPECT_EQ(hostWorkRefusal({}, 0), where + "waits for the host, which has no work");
  EXPECT_EQ(hostWorkRefusal({dispatch(0, 1, {pinned(0, 64)})}, 128, kFeatureDeviceKernels),
            "feature bits 12 expected, the header has 4");
  EXPECT_EQ(hostWorkRefusal({dispatch(0, 1, {pinned(0, 64)})}, (uint64_t(1) << 40) + 1),
            "plan 'default': program 'device_decode': arena of 1099511627777 bytes");
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.program().pinnedArenaBytes = 64; }),
            "plan 'default': program 'decode': a pinned arena, but there is no device");
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.program().commands = {{fb::Command::Join}}; }),
            "plan 'default': program 'decode': command 0: waits for the host, which has no work");
}

TEST(DeviceRulesTest, CandidatesHaveAPlace) {
  const auto bound = [](uint64_t offset, uint64_t bytes) {
    return deviceRefusal([&](ArtifactDraft &d) {
      d.plans[0].devicePrograms[0].commands = {dispatch(
          1, 1, {operand(fb::BindingKind::candidates, 0, offset, bytes, fb::Access::write)})};
    });
  };
  const std::string where = "plan 'default': program 'device_decode': command 0: ";
  EXPECT_EQ(bound(0, 512), "");
  EXPECT_EQ(bound(0, 513), where + "an operand reaches beyond its memory");
  EXPECT_EQ(bound(8, 8), where + "an operand names nothing that exists");
}

TEST(DeviceRulesTest, CanariesAreOfCpuKernels) {
  auto canaryOf = [](uint32_t library) {
    return deviceRefusal([&](ArtifactDraft &d) {
      d.canary = CanaryDraft();
      d.canary->text = CanaryTextDraft();
      d.canary->text->library = library;
      d.plans[0].canary = CanaryScoreDraft();
    });
  };
  EXPECT_EQ(canaryOf(0), "");
  EXPECT_EQ(canaryOf(1), "canary: its kernel library is not a CPU's");
}

TEST(DeviceRulesTest, ImagesAreFoundInTheSegment) {
  TemporaryDirectory directory;
  deviceDraft().write(directory.path() / "a.moeplan");
  auto artifact = Artifact::open(directory.path() / "a.moeplan");
  ASSERT_TRUE(artifact.ok());
  const fb::Artifact &metadata = artifact.value()->metadata();
  auto imagesOf = [&](uint32_t index) {
    const fb::KernelLibrary &library = *metadata.libraries()->Get(index);
    auto code = artifact.value()->load(library.segment());
    EXPECT_TRUE(code.ok());
    auto images = kernelImages(metadata, library, code.value());
    EXPECT_TRUE(images.ok());
    std::vector<std::string> texts;
    for (std::span<const std::byte> image : images.value())
      texts.emplace_back(reinterpret_cast<const char *>(image.data()), image.size());
    return texts;
  };
  EXPECT_EQ(imagesOf(1),
            (std::vector<std::string>{"", "first", "second image of more than 16 bytes"}));
  EXPECT_EQ(imagesOf(2),
            (std::vector<std::string>{"", std::string("ptx\0", 4), std::string("ptx!\0", 5)}));
  const std::vector<std::byte> cut(10);
  EXPECT_FALSE(kernelImages(metadata, *metadata.libraries()->Get(1), cut).ok());
  const std::vector<std::byte> noZero(21, std::byte('x'));
  EXPECT_FALSE(kernelImages(metadata, *metadata.libraries()->Get(2), noZero).ok());
  EXPECT_EQ(cudaLaunchOf(*metadata.kernels()->Get(1)).threads, 128u);
  EXPECT_EQ(allPrograms(*metadata.plans()->Get(0)).size(), 2u);
}

TEST(DeviceRulesTest, CudaTargets) {
  EXPECT_EQ(cudaTargetOf("sm_80")->capability, 80u);
  EXPECT_TRUE(cudaTargetOf("sm_90a")->isSpecific);
  EXPECT_FALSE(cudaTargetOf("sm_90a")->isPtx);
  EXPECT_TRUE(cudaTargetOf("compute_120")->isPtx);
  for (const char *name : {"", "sm_", "sm_9x", "sm_90aa", "sm_90 ", "SM_90", "90", "compute_"})
    EXPECT_FALSE(cudaTargetOf(name)) << name;
}

} // namespace
} // namespace moeplan::testing
