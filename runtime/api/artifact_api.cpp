#include "runtime/api/handles.h"
#include "runtime/device/arithmetic_peak.h"
#include "runtime/device/bandwidth.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

using namespace moeplan;

namespace moeplan {

namespace {

/// What is returned, and never freed, where there is no memory even for a status.
moeplan_status &outOfMemory() {
  static moeplan_status status{MOEPLAN_RESOURCE_EXHAUSTED, "out of memory"};
  return status;
}

/// A caller in C may have put any number there, which C++ must not take for the enumeration's.
Result<LoadMode> loadModeOf(const moeplan_load_mode &mode) {
  static_assert(sizeof(mode) == sizeof(int));
  int number = 0;
  std::memcpy(&number, &mode, sizeof(number));
  switch (number) {
  case MOEPLAN_LOAD_MAP:
    return LoadMode::mapped;
  case MOEPLAN_LOAD_READ:
    return LoadMode::read;
  case MOEPLAN_LOAD_DIRECT:
    return LoadMode::direct;
  }
  return invalidArgument("no load mode: " + std::to_string(number));
}

} // namespace

moeplan_status *toHandle(Status status) {
  if (status.ok())
    return nullptr;
  auto *handle = new (std::nothrow) moeplan_status{status.code(), {}};
  if (!handle)
    return &outOfMemory();
  handle->message = std::move(status).message();
  return handle;
}

} // namespace moeplan

Status moeplan_artifact::loadTokenizer() const {
  if (!artifact->hasTokenizer())
    return notFound("the artifact has no tokenizer");
  MOEPLAN_ASSIGN(const std::vector<std::byte> model,
                 artifact->load(artifact->metadata().tokenizer_segment()));
  MOEPLAN_ASSIGN(tokenizerHolder, Tokenizer::create(model, artifact->model().vocab_size()));
  return {};
}

extern "C" {

moeplan_code moeplan_status_code(const moeplan_status *status) {
  return status ? status->code : MOEPLAN_OK;
}

const char *moeplan_status_message(const moeplan_status *status) {
  return status ? status->message.c_str() : "ok";
}

void moeplan_status_free(moeplan_status *status) {
  if (status != &outOfMemory())
    delete status;
}

const char *moeplan_version(void) { return MOEPLAN_VERSION; }

moeplan_status *moeplan_artifact_open(const char *path, moeplan_artifact **out) {
  return guard([&]() -> Status {
    if (!path || !out)
      return nullArgument(path ? "out" : "path");
    MOEPLAN_ASSIGN(std::unique_ptr<Artifact> artifact, Artifact::open(path));
    auto handle = std::make_unique<moeplan_artifact>();
    handle->artifact = std::move(artifact);
    *out = handle.release();
    return {};
  });
}

void moeplan_artifact_close(moeplan_artifact *artifact) { delete artifact; }

void moeplan_load_options_init(moeplan_load_options *options) {
  if (!options)
    return;
  *options = {};
  options->struct_size = sizeof(moeplan_load_options);
}

moeplan_status *moeplan_artifact_load(moeplan_artifact *artifact,
                                      const moeplan_load_options *options) {
  return guard([&]() -> Status {
    if (!artifact)
      return nullArgument("artifact");
    moeplan_load_options all;
    moeplan_load_options_init(&all);
    MOEPLAN_TRY(readOptions(options, all));
    LoadOptions load;
    MOEPLAN_ASSIGN(load.experts, loadModeOf(all.experts));
    MOEPLAN_ASSIGN(load.others, loadModeOf(all.others));
    load.preload = all.preload;
    load.hugePages = all.huge_pages;
    load.threads = all.threads;
    if (all.plan) {
      MOEPLAN_ASSIGN(load.plan, artifact->artifact->plan(all.plan));
    }
    if (all.progress)
      load.progress = [&](uint64_t done, uint64_t total) {
        return all.progress(all.user_data, done, total);
      };
    return artifact->artifact->loadWeights(load);
  });
}

moeplan_status *moeplan_artifact_verify(const moeplan_artifact *artifact,
                                        moeplan_progress_fn progress, void *user_data) {
  return guard([&]() -> Status {
    if (!artifact)
      return nullArgument("artifact");
    return artifact->artifact->verify([&](uint64_t done, uint64_t total) {
      return !progress || progress(user_data, done, total);
    });
  });
}

moeplan_status *moeplan_artifact_inspect(const moeplan_artifact *artifact, char **json) {
  return guard([&]() -> Status {
    if (!artifact || !json)
      return nullArgument(artifact ? "json" : "artifact");
    const std::string text = inspectArtifact(*artifact->artifact);
    *json = strdup(text.c_str());
    return *json ? Status() : exhausted("out of memory");
  });
}

void moeplan_string_free(char *string) { free(string); }

moeplan_model_info moeplan_artifact_model_info(const moeplan_artifact *artifact) {
  if (!artifact)
    return {};
  const fb::Model &model = artifact->artifact->model();
  return {model.vocab_size(),
          model.num_layers(),
          model.num_experts(),
          model.num_experts_per_tok(),
          model.max_position_embeddings(),
          model.bos_token_id()};
}

bool moeplan_artifact_is_eos(const moeplan_artifact *artifact, int32_t token) {
  const auto *ids = artifact ? artifact->artifact->model().eos_token_ids() : nullptr;
  return ids && std::find(ids->begin(), ids->end(), token) != ids->end();
}

bool moeplan_artifact_has_tokenizer(const moeplan_artifact *artifact) {
  return artifact && artifact->artifact->hasTokenizer();
}

bool moeplan_artifact_is_synthetic(const moeplan_artifact *artifact, uint64_t *seed) {
  const auto value = artifact ? artifact->artifact->syntheticSeed() : std::nullopt;
  if (value && seed)
    *seed = *value;
  return value.has_value();
}

size_t moeplan_artifact_plan_count(const moeplan_artifact *artifact) {
  return artifact ? artifact->artifact->metadata().plans()->size() : 0;
}

const char *moeplan_artifact_plan_name(const moeplan_artifact *artifact, size_t index) {
  if (index >= moeplan_artifact_plan_count(artifact))
    return nullptr;
  return artifact->artifact->metadata().plans()->Get(static_cast<uint32_t>(index))->name()->c_str();
}

moeplan_status *moeplan_measure_read_bandwidth(uint32_t threads, uint64_t bytes,
                                               uint32_t repetitions, double *bytes_per_second) {
  return guard([&]() -> Status {
    if (!bytes_per_second)
      return nullArgument("bytes_per_second");
    MOEPLAN_ASSIGN(*bytes_per_second, measureReadBandwidth(threads, bytes, repetitions));
    return {};
  });
}

moeplan_status *moeplan_measure_arithmetic_peak(moeplan_arithmetic arithmetic, uint32_t threads,
                                                uint32_t repetitions,
                                                double *operations_per_second) {
  return guard([&]() -> Status {
    if (!operations_per_second)
      return nullArgument("operations_per_second");
    MOEPLAN_ASSIGN(*operations_per_second, measureArithmeticPeak(arithmetic, threads, repetitions));
    return {};
  });
}

} // extern "C"
