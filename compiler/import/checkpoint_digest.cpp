#include "compiler/import/checkpoint_digest.h"

#include "compiler/support/digest.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/ThreadPool.h"

#include <chrono>
#include <mutex>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Threads that read, and hold a tensor each meanwhile: enough for a disk.
constexpr unsigned kReaders = 4;
/// A file that changed less than so long ago may change again within one tick of its clock.
constexpr int64_t kTick = 2'000'000'000;

void addConfig(ListDigest &digest, const MixtralConfig &config) {
  for (uint32_t value :
       {config.vocabSize, config.hiddenSize, config.intermediateSize, config.numLayers,
        config.numAttentionHeads, config.numKeyValueHeads, config.headDim, config.numExperts,
        config.numExpertsPerToken, config.slidingWindow, config.maxPositionEmbeddings})
    digest.add(uint64_t(value));
  digest.add(config.rmsNormEps);
  digest.add(config.ropeTheta);
  digest.add(uint64_t(config.tieWordEmbeddings));
  digest.add(uint64_t(int64_t(config.bosTokenId)));
  digest.add(uint64_t(config.eosTokenIds.size()));
  for (int32_t id : config.eosTokenIds)
    digest.add(uint64_t(int64_t(id)));
}

Expected<std::string> digestOfTensor(const Checkpoint &checkpoint, const TensorInfo &tensor) {
  if (Error error = checkpoint.bringIn(tensor))
    return error;
  ListDigest digest;
  digest.add(dtypeName(tensor.dtype)).add(uint64_t(tensor.shape.size()));
  for (uint64_t extent : tensor.shape)
    digest.add(extent);
  return digest.add(digestOf(checkpoint.bytes(tensor))).hex();
}

} // namespace

CheckpointDigest::CheckpointDigest(const Checkpoint &checkpoint, BuildCache &cache)
    : checkpoint_(checkpoint), cache_(cache),
      opened_(std::chrono::duration_cast<std::chrono::nanoseconds>(
                  std::chrono::system_clock::now().time_since_epoch())
                  .count()),
      recalled_(checkpoint.files().size()) {
  if (!checkpoint.syntheticSeed())
    for (uint32_t index = 0; index < checkpoint.files().size(); ++index)
      recallFile(index);
}

std::optional<CacheKey> CheckpointDigest::keyOf(uint32_t index) const {
  const FileStamp &stamp = checkpoint_.stampOf(index);
  if (!cache_.isOn() || std::max(stamp.modified, stamp.changed) > opened_ - kTick)
    return std::nullopt;
  CacheKey key("digests");
  key.add(stamp.device).add(stamp.inode).add(stamp.bytes);
  key.add(uint64_t(stamp.modified)).add(uint64_t(stamp.changed));
  return key;
}

void CheckpointDigest::recallFile(uint32_t index) {
  const std::optional<CacheKey> key = keyOf(index);
  const std::unique_ptr<MemoryBuffer> found = key ? cache_.find(*key) : nullptr;
  if (!found)
    return;
  std::map<uint64_t, StringRef> byOffset;
  SmallVector<StringRef> lines;
  found->getBuffer().split(lines, '\n', -1, /*KeepEmpty=*/false);
  for (StringRef line : lines) {
    const auto [number, digest] = line.split(' ');
    uint64_t offset = 0;
    if (!number.getAsInteger(10, offset))
      byOffset[offset] = digest;
  }
  recalled_[index] = true;
  for (const auto &[name, tensor] : checkpoint_.tensors())
    if (tensor.file == index) {
      if (auto digest = byOffset.find(tensor.offset); digest != byOffset.end())
        digests_[name] = digest->second.str();
      else
        recalled_[index] = false;
    }
}

void CheckpointDigest::rememberFile(uint32_t index) {
  const std::optional<CacheKey> key = recalled_[index] ? std::nullopt : keyOf(index);
  if (!key)
    return;
  std::string text;
  for (const auto &[name, tensor] : checkpoint_.tensors())
    if (tensor.file == index)
      text += std::to_string(tensor.offset) + " " + digests_.at(name) + "\n";
  cache_.store(*key, arrayRefFromStringRef(text));
}

Expected<std::string> CheckpointDigest::of(const TensorInfo &tensor) {
  if (auto known = digests_.find(tensor.name); known != digests_.end())
    return known->second;
  auto digest = digestOfTensor(checkpoint_, tensor);
  if (digest)
    digests_[tensor.name] = *digest;
  return digest;
}

Error CheckpointDigest::readRest(const std::function<void(uint64_t, uint64_t)> &progress) {
  std::vector<const TensorInfo *> missing;
  uint64_t total = 0, done = 0;
  for (const auto &[name, tensor] : checkpoint_.tensors())
    if (!isKnown(tensor)) {
      missing.push_back(&tensor);
      total += tensor.bytes;
    }
  // As they lie on the disk.
  llvm::sort(missing, [](const TensorInfo *a, const TensorInfo *b) {
    return std::tie(a->file, a->offset) < std::tie(b->file, b->offset);
  });
  std::mutex mutex;
  std::string problem;
  DefaultThreadPool readers(hardware_concurrency(kReaders));
  for (const TensorInfo *tensor : missing)
    readers.async([&, tensor] {
      {
        std::lock_guard lock(mutex);
        if (!problem.empty())
          return;
      }
      auto digest = digestOfTensor(checkpoint_, *tensor);
      checkpoint_.release(*tensor);
      std::lock_guard lock(mutex);
      if (!digest) {
        problem = toString(digest.takeError());
        return;
      }
      digests_[tensor->name] = std::move(*digest);
      done += tensor->bytes;
      if (progress)
        progress(done, total);
    });
  readers.wait();
  return problem.empty() ? Error::success() : createStringError(problem);
}

Expected<std::string>
CheckpointDigest::ofAll(const std::function<void(uint64_t, uint64_t)> &progress) {
  ListDigest digest;
  addConfig(digest, checkpoint_.config());
  if (const std::optional<uint64_t> seed = checkpoint_.syntheticSeed())
    return digest.add("synthetic").add(*seed).hex();
  if (Error error = readRest(progress))
    return error;
  for (uint32_t index = 0; index < checkpoint_.files().size(); ++index)
    rememberFile(index);
  digest.add(uint64_t(checkpoint_.tensors().size()));
  for (const auto &[name, tensor] : checkpoint_.tensors())
    digest.add(name).add(digests_.at(name));
  return digest.add(digestOf(checkpoint_.tokenizer())).hex();
}

Expected<std::string> moeplan::compiler::digestOf(const Checkpoint &checkpoint) {
  BuildCache none;
  return CheckpointDigest(checkpoint, none).ofAll();
}
