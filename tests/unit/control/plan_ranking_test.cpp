// Which plan is better.
#include "runtime/artifact/artifact.h"
#include "runtime/control/plan_ranking.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

std::vector<std::string> ranked(const ArtifactDraft &draft, bool byQuality = false) {
  TemporaryDirectory directory;
  const std::string path = directory.path() / "a.moeplan";
  draft.write(path);
  auto artifact = Artifact::open(path);
  EXPECT_TRUE(artifact.ok()) << artifact.failure().message();
  std::vector<std::string> names;
  const fb::Artifact &metadata = artifact.value()->metadata();
  for (const fb::Plan *plan : byQuality ? rankPlansByQuality(metadata) : rankPlans(metadata))
    names.push_back(plan->name()->str());
  return names;
}

/// Plans `a`, `b`, `c` that lose 2, 1, 2 % and decode 30, 10, 20 tokens/s.
ArtifactDraft threePlans() {
  ArtifactDraft draft;
  const PlanDraft first = draft.plans[0];
  draft.plans.clear();
  const double losses[] = {0.02, 0.01, 0.02}, speeds[] = {30, 10, 20};
  for (int i = 0; i < 3; ++i) {
    PlanDraft plan = first;
    plan.name = std::string(1, char('a' + i));
    plan.prediction =
        PredictionDraft{.perplexityIncrease = losses[i], .tokensPerSecond = speeds[i]};
    draft.plans.push_back(plan);
  }
  return draft;
}

TEST(PlanRankingTest, ByWhatTheFirstPlanPrefers) {
  using Names = std::vector<std::string>;
  ArtifactDraft draft = threePlans();
  EXPECT_EQ(ranked(draft), (Names{"b", "a", "c"}));
  draft.plans[0].prefer = fb::Preference::throughput;
  EXPECT_EQ(ranked(draft), (Names{"a", "c", "b"}));
  EXPECT_EQ(ranked(draft, true), (Names{"b", "a", "c"}));
}

TEST(PlanRankingTest, MeasuredBeforePredicted) {
  ArtifactDraft draft = threePlans();
  draft.canary.emplace().text.emplace();
  const double divergences[] = {0.1, 0.3, 0.2};
  for (int i = 0; i < 3; ++i)
    draft.plans[i].canary = CanaryScoreDraft{.divergence = divergences[i]};
  EXPECT_EQ(ranked(draft), (std::vector<std::string>{"a", "c", "b"}));
}

TEST(PlanRankingTest, WithoutPredictionsInTheirOrder) {
  ArtifactDraft draft = threePlans();
  draft.plans[1].prediction.reset();
  EXPECT_EQ(ranked(draft), (std::vector<std::string>{"a", "b", "c"})); // all of the same formats
}

} // namespace
} // namespace moeplan::testing
