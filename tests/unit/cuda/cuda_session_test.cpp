// Sessions on the cuda device: the real kernels' sources, executed by the CPU.
#include "tests/support/npy.h"
#include "tests/unit/cuda/cuda_test.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace moeplan::testing {
namespace {

using CudaSessionTest = CudaTest;

const std::filesystem::path kGolden = MOEPLAN_SOURCE_DIR "/tests/golden";

/// The largest difference of the logits from the golden ones, prompt by prompt, in chunks of
/// `chunk` tokens (0: all at once).
double worstOf(Session &session, size_t prompts, size_t chunk) {
  double worst = 0;
  const auto all = nlohmann::json::parse(readFile(kGolden / "prompts.json"));
  for (size_t p = 0; p < prompts; ++p) {
    const auto tokens = all[p].at("ids").get<std::vector<int32_t>>();
    const Matrix golden = readNpy(kGolden / all[p].at("logits").get<std::string>());
    session.reset();
    const size_t step = chunk ? chunk : tokens.size();
    for (size_t begin = 0; begin < tokens.size(); begin += step) {
      const size_t count = std::min(step, tokens.size() - begin);
      const Status status = session.append(std::span(tokens).subspan(begin, count), count);
      EXPECT_TRUE(status.ok()) << status.message();
      for (size_t r = 0; r < count; ++r)
        for (size_t i = 0; i < golden.columns; ++i)
          worst = std::max(worst, std::abs(double(session.logits(r)[i]) -
                                           golden.values[(begin + r) * golden.columns + i]));
    }
  }
  return worst;
}

TEST_F(CudaSessionTest, LogitsAreNearTheGoldenOnes) {
  const auto artifact = open(Artifacts::cuda());
  Served served(*artifact, "bf16", "cuda");
  EXPECT_EQ(served.session->targetCpu(), "sm_90a");
  // As for the CPU: activations beside bf16 weights are bf16, and so is the KV cache.
  EXPECT_LE(worstOf(*served.session, 3, 0), 0.1) << "all at once";
  EXPECT_LE(worstOf(*served.session, 1, 5), 0.1) << "in fives";
  EXPECT_LE(worstOf(*served.session, 1, 1), 0.1) << "one by one";
}

TEST_F(CudaSessionTest, AStepIsOneLaunch) {
  const auto artifact = open(Artifacts::cuda());
  Served served(*artifact, "int4", "cuda");
  served.prompt();
  fake_cuda_reset();
  served.generate(3);
  EXPECT_EQ(fake_cuda_calls("cuGraphLaunch"), 3);
  EXPECT_EQ(fake_cuda_calls("cuLaunchKernel"), 0);
  EXPECT_EQ(fake_cuda_calls("cuMemAlloc_v2"), 0);
}

TEST_F(CudaSessionTest, SamplesOnTheDevice) {
  const auto artifact = open(Artifacts::cuda());
  Served served(*artifact, "int4", "cuda");
  Session &session = *served.session;
  const auto generated = [&](moeplan_sampler_options options, bool onDevice) {
    auto sampler = std::move(Sampler::create(options, session.vocabSize())).value();
    std::vector<int32_t> tokens(promptTokens().begin(), promptTokens().end()), result;
    session.reset();
    for (int i = 0; i < 6; ++i) {
      if (onDevice) {
        const auto token = session.appendSampled(tokens, sampler);
        EXPECT_TRUE(token.ok());
        tokens = {token.value()};
        EXPECT_EQ(session.logits(0), nullptr);
      } else {
        EXPECT_TRUE(session.append(tokens, 1).ok());
        tokens = {sampler.sample(session.logits(0))};
      }
      result.push_back(tokens[0]);
    }
    return result;
  };
  const auto row = int64_t(session.vocabSize() * sizeof(float));
  for (const auto &[temperature, topK] : {std::pair(0.0f, 0u), {0.9f, 20u}, {0.9f, 0u}}) {
    const moeplan_sampler_options options{.struct_size = sizeof(moeplan_sampler_options),
                                          .temperature = temperature,
                                          .top_k = topK,
                                          .top_p = 0.95f,
                                          .repetition_penalty = 1.1f,
                                          .repetition_window = 16,
                                          .seed = 5};
    const std::vector<int32_t> expected = generated(options, false);
    fake_cuda_reset();
    EXPECT_EQ(generated(options, true), expected) << temperature << ' ' << topK;
    const bool few = temperature == 0 || topK > 0;
    EXPECT_EQ(fake_cuda_bytes_to_host(), 6 * (few ? 512 : row));
  }
}

TEST_F(CudaSessionTest, KernelsOneByOneGiveTheSameAndAreCounted) {
  const auto artifact = open(Artifacts::cuda());
  Served served(*artifact, "int4", "cuda");
  Session &session = *served.session;
  const std::span<const int32_t> tokens = promptTokens();
  ASSERT_TRUE(session.append(tokens, 2).ok());
  const std::vector<float> expected(session.logits(0), session.logits(0) + 2 * session.vocabSize());
  session.reset();
  auto work = session.appendCounted(tokens, 2);
  ASSERT_TRUE(work.ok());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), session.logits(0)));
  EXPECT_GT(work.value().bf16_operations, 0u);
  EXPECT_EQ(work.value().int8_operations, 0u) << "codes are multiplied as bf16";
  // Every expert of this plan has as many bytes, so that one token reads what the plan says.
  work = session.appendCounted(tokens.first(1), 1);
  ASSERT_TRUE(work.ok());
  EXPECT_EQ(work.value().weight_bytes, session.weightBytesPerToken());
  EXPECT_EQ(work.value().cache_bytes,
            2 * 2 * (tokens.size() + 1) * artifact->model().num_key_value_heads() *
                artifact->model().head_dim() * artifact->model().num_layers());

  session.reset();
  auto times = session.measureKernels(tokens.first(1), 1, 2);
  ASSERT_TRUE(times.ok());
  const auto layers = artifact->model().num_layers();
  for (const KernelTime &time : times.value()) {
    const std::string name = time.kernel->implementation()->str();
    const bool oncePerStep =
        name == "embedding" || time.kernel->symbol()->str().find("_2048_") != std::string::npos;
    EXPECT_EQ(time.dispatches, oncePerStep ? 1 : layers) << time.kernel->symbol()->str();
    EXPECT_GT(time.seconds, 0) << name;
  }
}

TEST_F(CudaSessionTest, SyntheticWeightsNeedNotBeOnTheHost) {
  const auto logitsOf = [](const Artifact &artifact, const char *plan = "split") {
    Served served(artifact, plan, "cuda");
    Status status = served.session->append(promptTokens(), 1);
    EXPECT_TRUE(status.ok()) << status.message();
    status = served.session->append(std::span(promptTokens()).first(1), 1);
    EXPECT_TRUE(status.ok()) << status.message();
    const float *logits = served.session->logits(0);
    return std::vector<float>(logits, logits + served.session->vocabSize());
  };
  const auto generated = open(Artifacts::synthetic()), kept = open(Artifacts::synthetic());
  ASSERT_TRUE(kept->prepareWeights(1).ok());
  fake_cuda_reset();
  const std::vector<float> logits = logitsOf(*generated);
  const int64_t launches = fake_cuda_calls("cuLaunchKernel");
  fake_cuda_reset();
  EXPECT_EQ(logits, logitsOf(*kept));
  EXPECT_GT(launches, fake_cuda_calls("cuLaunchKernel") + 100)
      << "a kernel fills every weight; what the host has is copied";
  EXPECT_EQ(logitsOf(*generated, "host_compute"), logitsOf(*kept, "host_compute"));
  for (uint32_t i = 0; i < generated->metadata().segments()->size(); ++i)
    EXPECT_TRUE(!generated->metadata().segments()->Get(i)->synthetic() || !generated->hasBytes(i));
}

TEST_F(CudaSessionTest, SyntheticWeightsAreMadeByTheHostWhereTheDeviceHasNoRoomToMakeThem) {
  const auto artifact = open(Artifacts::synthetic());
  Served served(*artifact, "split", "cuda");
  LoadedPlan &active = served.session->active();
  const std::array<Held, 3> expert = active.weights().experts[1];
  ASSERT_EQ(expert[0].memory, fb::Residency::device);
  const auto bytesOf = [&](const Held &held) {
    const auto *data = served.residency().address(held);
    return std::vector<std::byte>(data, data + served.residency().bytesOf(held.segment));
  };
  const auto bringBack = [&](bool withRoom) {
    served.session->atBoundary([&] { active.evict(1, {}); });
    if (!withRoom)
      served.device().setBudget(served.device().used() +
                                3 * served.residency().bytesOf(expert[0].segment));
    fake_cuda_reset();
    EXPECT_TRUE(active.bringBack(1, {}).ok());
    EXPECT_EQ(fake_cuda_calls("cuLaunchKernel"), withRoom ? 3 : 0);
    std::array<std::vector<std::byte>, 3> bytes;
    std::transform(expert.begin(), expert.end(), bytes.begin(), bytesOf);
    served.session->atBoundary([&] { active.putBack(1); });
    return bytes;
  };
  const auto made = bringBack(true);
  EXPECT_EQ(bringBack(false), made);
}

TEST_F(CudaSessionTest, AChoiceByBudgetFits) {
  const auto artifact = open(Artifacts::cuda());
  for (const char *plan : {"bf16", "int8", "int4", "split", "stream", "cached", "host_compute"}) {
    const uint64_t used = [&] {
      Served served(*artifact, plan, "cuda");
      return served.device().used();
    }();
    const auto chosen = [&](uint64_t budget) {
      Served served(*artifact, nullptr, "cuda:0,device_memory=" + std::to_string(budget));
      EXPECT_LE(served.device().used(), budget) << served.session->planName();
      return std::string(served.session->planName());
    };
    EXPECT_NO_THROW(chosen(used)) << plan;
    try {
      EXPECT_NE(chosen(used - 1), plan);
    } catch (const std::runtime_error &error) {
      EXPECT_NE(std::string(error.what()).find("no plan fits"), std::string::npos) << error.what();
    }
  }
}

TEST_F(CudaSessionTest, APlanTakesWhatThePlannerHasPredicted) {
  const auto artifact = open(Artifacts::planned());
  const fb::Prediction &predicted = *artifact->plan("planned").value()->prediction();
  Served served(*artifact, "planned", "cuda", predicted.context());
  const fb::Memory &memory = *predicted.device();
  const uint64_t bytes = memory.weights() + memory.kv_cache() + memory.activations();
  EXPECT_GT(memory.activations(), 512 * served.session->vocabSize() * sizeof(float));
  // The prediction's arena is that of a placement without experts on the host.
  EXPECT_NEAR(double(served.device().used()), double(bytes), 4096);
}

TEST_F(CudaSessionTest, SwitchesGoOnWhereTheyWere) {
  const auto artifact = open(Artifacts::cuda());
  Served served(*artifact, "int8", "cuda");
  std::vector<int32_t> tokens = served.generate(6);
  EXPECT_EQ(tokens, tokensOf(*artifact, "int8", "cuda", 6));
  for (const char *plan : {"int4", "split"}) {
    const uint64_t moved = difference(*artifact, served.session->planName(), plan);
    ASSERT_TRUE(served.switchTo(plan).ok());
    EXPECT_STREQ(served.session->planName(), plan);
    EXPECT_EQ(served.log.last(MOEPLAN_EVENT_COMPLETED).bytes, moved);
    const std::vector<int32_t> more = served.generate(6);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  EXPECT_EQ(served.session->position(), promptTokens().size() + 18);
  // The same by hand, on the KV cache of int8.
  Served byHand(*artifact, "int8", "cuda");
  std::vector<int32_t> expected = byHand.generate(6);
  auto next = byHand.session->load(*artifact->plan("int4").value(), {});
  ASSERT_TRUE(next.ok());
  std::unique_ptr<LoadedPlan> previous;
  byHand.session->atBoundary([&] { previous = byHand.session->flip(std::move(next).value()); });
  const std::vector<int32_t> rest = byHand.generate(12);
  expected.insert(expected.end(), rest.begin(), rest.end());
  EXPECT_EQ(tokens, expected);
}

TEST_F(CudaSessionTest, WhereBothPlansDoNotFitExpertsLeaveFirst) {
  const auto artifact = open(Artifacts::cuda());
  const std::vector<int32_t> expected = [&] {
    Served served(*artifact, "int8", "cuda");
    std::vector<int32_t> tokens = served.generate(4);
    EXPECT_TRUE(served.switchTo("int4").ok());
    const std::vector<int32_t> more = served.generate(4);
    tokens.insert(tokens.end(), more.begin(), more.end());
    return tokens;
  }();
  Served served(*artifact, "int8", "cuda");
  served.device().setBudget(served.device().used() + 200'000);
  std::vector<int32_t> tokens = served.generate(4);
  ASSERT_TRUE(served.switchTo("int4").ok()) << served.log.last(MOEPLAN_EVENT_FAILED).reason;
  EXPECT_GT(served.log.count(MOEPLAN_EVENT_EVICTED), 0u);
  EXPECT_LE(served.device().used(), served.device().budget());
  const std::vector<int32_t> more = served.generate(4);
  tokens.insert(tokens.end(), more.begin(), more.end());
  EXPECT_EQ(tokens, expected);
}

TEST_F(CudaSessionTest, DamageOnTheDeviceIsFoundAndRepaired) {
  const auto artifact = open(Artifacts::cuda());
  Served served(*artifact, "int4", "cuda");
  const std::vector<int32_t> expected = served.generate(6);
  const Held held = served.session->active().weights().experts[0][0];
  ASSERT_EQ(held.memory, fb::Residency::device);
  auto *bytes = const_cast<std::byte *>(served.residency().address(held));
  EXPECT_TRUE(served.residency().isIntact(held));
  bytes[100] ^= std::byte(16); // memory of the host, which only this driver's device has
  EXPECT_FALSE(served.residency().isIntact(held));
  ASSERT_TRUE(served.residency().repair(held).ok());
  EXPECT_TRUE(served.residency().isIntact(held));
  EXPECT_EQ(tokensOf(*artifact, "int4", "cuda", 6), expected);
}

TEST_F(CudaSessionTest, ASessionThatCannotBeMadeSaysWhyAndLeavesNothing) {
  const auto artifact = open(Artifacts::cuda());
  bool failed = true;
  int64_t failures = 0;
  for (int64_t nth = 0; failed; nth = nth + 1 + nth / 12) {
    fake_cuda_fail_call(nth, kLaunchFailed);
    bool made = true;
    try {
      Served served(*artifact, nth % 2 ? "host_compute" : "cached", "cuda");
      failed = fake_cuda_failed();
    } catch (const std::runtime_error &error) {
      made = false;
      EXPECT_NE(std::string(error.what()).find("CUDA_ERROR_LAUNCH_FAILED"), std::string::npos)
          << error.what();
    }
    EXPECT_EQ(made, !failed) << "call " << nth;
    failures += failed;
    EXPECT_EQ(fake_cuda_live_objects(), 0) << "call " << nth;
    fake_cuda_reset();
  }
  EXPECT_GT(failures, 30);
}

TEST_F(CudaSessionTest, ASwitchThatFailsLeavesThePlanInUse) {
  const auto artifact = open(Artifacts::cuda());
  Served served(*artifact, "int8", "cuda");
  served.prompt();
  int failures = 0;
  for (int64_t nth = 0; nth < 400; nth = nth + 7 + nth / 3) {
    const uint64_t used = served.device().used();
    const int64_t objects = fake_cuda_live_objects();
    fake_cuda_fail_call(nth, kLaunchFailed);
    const Status status = served.switchTo("int4");
    fake_cuda_reset();
    if (status.ok()) { // nothing was left to fail
      ASSERT_TRUE(served.switchTo("int8").ok());
      continue;
    }
    ++failures;
    EXPECT_NE(status.message().find("CUDA_ERROR_LAUNCH_FAILED"), std::string::npos);
    EXPECT_STREQ(served.session->planName(), "int8");
    EXPECT_EQ(served.device().used(), used) << "call " << nth;
    EXPECT_LE(fake_cuda_live_objects(), objects + 40) << "images stay loaded, nothing else";
  }
  EXPECT_GT(failures, 3);
  EXPECT_EQ(served.generate(4), tokensOf(*artifact, "int8", "cuda", 4));
}

TEST_F(CudaSessionTest, AStepThatFailsCanBeMadeAgain) {
  const auto artifact = open(Artifacts::cuda());
  for (const char *plan : {"int4", "host_compute"}) {
    const std::vector<int32_t> expected = tokensOf(*artifact, plan, "cuda", 3);
    Served served(*artifact, plan, "cuda");
    served.prompt();
    const uint32_t position = served.session->position();
    for (int64_t nth = 0; nth < 3; ++nth) { // launch, copy of the logits, wait
      fake_cuda_fail_call(nth, kLaunchFailed);
      const int32_t token = expected[0];
      const Status status = served.session->append({&token, 1}, 1);
      EXPECT_EQ(status.code(), MOEPLAN_IO_ERROR) << nth;
      EXPECT_EQ(served.session->position(), position);
      fake_cuda_reset();
    }
    EXPECT_EQ(served.generate(3), expected);
  }
}

TEST_F(CudaSessionTest, ADeviceWithoutKernelsSaysWhatThereIs) {
  fake_cuda_set_device(75, uint64_t(1) << 30);
  const auto artifact = open(Artifacts::cuda());
  try {
    Served served(*artifact, "int4", "cuda");
    FAIL();
  } catch (const std::runtime_error &error) {
    EXPECT_EQ(std::string(error.what()), "no kernels for a device of compute capability 7.5; the "
                                         "artifact has sm_90a, compute_90");
  }
}

} // namespace
} // namespace moeplan::testing
