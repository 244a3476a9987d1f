// What a session refuses before it loads any code.
#include "runtime/session/session.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

std::string refusal(const ArtifactDraft &draft, const SessionOptions &options = {}) {
  TemporaryDirectory directory;
  const std::string path = directory.path() / "a.moeplan";
  draft.write(path);
  auto artifact = Artifact::open(path);
  EXPECT_TRUE(artifact.ok());
  auto session = Session::create(*artifact.value(), options);
  return session.ok() ? "" : session.failure().message();
}

TEST(SessionTest, TheCpuHasNoMemoryForExpertsOnADevice) {
  const char *expected = "plan 'default' keeps experts in device memory; the cpu device has none";
  ArtifactDraft draft;
  using D = ArtifactDraft;
  draft.plans[0].experts[3] = fb::Expert(D::kUp, D::kUp, D::kDown, fb::Residency::device);
  EXPECT_EQ(refusal(draft), expected);
  // Whatever the plan does about the others.
  draft.plans[0].missStrategy = fb::MissStrategy::cached;
  draft.plans[0].cacheSlots = 1;
  EXPECT_EQ(refusal(draft), expected);
}

TEST(SessionTest, ContextBeyondTheModels) {
  SessionOptions options;
  options.contextLength = 17;
  EXPECT_EQ(refusal(ArtifactDraft(), options),
            "context length 17 exceeds the model's max_position_embeddings 16");
}

} // namespace
} // namespace moeplan::testing
