// The example policies and profiles are read, and the planner meets what the policies ask for.
#include "compiler/import/checkpoint.h"
#include "compiler/planner/planner.h"
#include "compiler/policy/policy.h"
#include "compiler/profile/profile.h"
#include "tests/support/files.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

namespace moeplan::compiler {
namespace {

std::vector<std::filesystem::path> exampleFiles(const char *folder) {
  std::vector<std::filesystem::path> files;
  const std::filesystem::path path =
      std::filesystem::path(MOEPLAN_SOURCE_DIR) / "examples" / folder;
  for (const auto &entry : std::filesystem::directory_iterator(path))
    if (entry.path().extension() == ".toml")
      files.push_back(entry.path());
  llvm::sort(files);
  return files;
}

class ExamplePolicy : public ::testing::TestWithParam<std::filesystem::path> {};

TEST_P(ExamplePolicy, EveryPlannedTierIsFeasibleForMixtral8x7B) {
  auto policy = parsePolicy(testing::readFile(GetParam()), GetParam().string());
  ASSERT_TRUE(bool(policy)) << llvm::toString(policy.takeError());
  std::optional<Profile> profile;
  if (!policy->profile.empty()) {
    auto read = readProfile(policy->profile);
    ASSERT_TRUE(bool(read)) << llvm::toString(read.takeError());
    profile = std::move(*read);
  }
  const std::string path = MOEPLAN_SOURCE_DIR "/examples/configs/mixtral-8x7b.json";
  const MixtralConfig config = llvm::cantFail(parseMixtralConfig(testing::readFile(path), path));
  for (const Tier &tier : policy->tiers) {
    WorkloadInfo workload;
    workload.context = policy->context;
    workload.batch = policy->batch;
    workload.activationBytes = uint64_t(256) << 20;
    if (!tier.nonExpertFormat.empty())
      workload.nonExpertFormat = findFormat(std::string_view(tier.nonExpertFormat));
    if (!tier.planned)
      continue;
    const CostModel model(config, QualityModel::published(config), profile, workload);
    auto plan = planTier(model, tier);
    if (!plan) {
      ADD_FAILURE() << llvm::toString(plan.takeError());
      continue;
    }
    const PlacementCosts &costs = plan->costs;
    std::printf(
        "%s, %s: +%.2f %%, %.1f tokens/s, %.2f bits, %u on the device, %s, %.2f + %.2f GiB\n",
        GetParam().filename().c_str(), tier.name.c_str(), 100 * costs.perplexityIncrease,
        costs.tokensPerSecond, costs.bitsPerWeight, costs.expertsOnDevice,
        std::string(missStrategyName(plan->placement.miss)).c_str(),
        double(costs.device.total()) / (1 << 30), double(costs.host.total()) / (1 << 30));
  }
}

std::string testName(const ::testing::TestParamInfo<std::filesystem::path> &info) {
  std::string name = info.param.stem().string();
  llvm::erase_if(name, [](char c) { return !llvm::isAlnum(c); });
  return name;
}

INSTANTIATE_TEST_SUITE_P(Files, ExamplePolicy, ::testing::ValuesIn(exampleFiles("policies")),
                         testName);

TEST(ExampleProfiles, AreRead) {
  const auto files = exampleFiles("profiles");
  EXPECT_FALSE(files.empty());
  for (const auto &file : files) {
    auto profile = readProfile(file.string());
    EXPECT_TRUE(bool(profile)) << llvm::toString(profile.takeError());
  }
}

} // namespace
} // namespace moeplan::compiler
