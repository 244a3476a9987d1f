#include "compiler/import/checkpoint.h"

#include "compiler/import/input_file.h"
#include "compiler/import/json.h"
#include "compiler/import/messages.h"
#include "compiler/import/safetensors.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringMap.h"

#include <cerrno>
#include <unistd.h>

using namespace llvm;

namespace moeplan::compiler {

struct Checkpoint::Impl {
  std::vector<InputFile> weights; ///< parallel to files()
  InputFile tokenizer;
};

namespace {

constexpr const char *kConfigFile = "config.json";
constexpr const char *kSingleFile = "model.safetensors";
constexpr const char *kIndexFile = "model.safetensors.index.json";
constexpr const char *kTokenizerFile = "tokenizer.model";
/// What stands for the file of weights that no file holds.
constexpr const char *kSynthetic = "synthetic";

bool exists(const std::string &path) { return ::access(path.c_str(), F_OK) == 0; }

/// Where the weights are: one file, or shards and an index that says which tensor is in which.
struct WeightFiles {
  std::vector<std::string> names; ///< relative to the directory, sorted
  std::map<std::string, std::string> shardOfTensor;
  bool sharded = false;
};

Expected<WeightFiles> readIndex(const std::string &path) {
  Expected<InputFile> file = InputFile::open(path);
  if (!file)
    return file.takeError();
  Expected<nlohmann::json> index = parseJson(file->text(), kIndexFile);
  if (!index)
    return index.takeError();
  const nlohmann::json *map = nullptr;
  if (index->is_object())
    if (auto member = index->find("weight_map"); member != index->end())
      map = &*member;
  if (!map || !map->is_object())
    return importError(Twine(kIndexFile) + ": weight_map: an object expected, " + describe(map));
  WeightFiles result;
  result.sharded = true;
  for (const auto &[tensor, shard] : map->items()) {
    // A shard is a file of the directory itself: an index must not reach other files.
    StringRef name;
    if (shard.is_string())
      name = shard.get_ref<const std::string &>();
    if (name.empty() || name == "." || name.contains("..") || name.contains('/') ||
        name.contains('\0'))
      return importError(tensor + ": the name of a file in the same directory expected, " +
                         describe(&shard) + " (" + kIndexFile + ")");
    result.shardOfTensor.emplace(tensor, name.str());
    result.names.push_back(name.str());
  }
  llvm::sort(result.names);
  result.names.erase(std::unique(result.names.begin(), result.names.end()), result.names.end());
  return result;
}

/// As in transformers, a single file is preferred where both exist.
Expected<WeightFiles> findWeightFiles(const std::string &directory) {
  if (exists(directory + "/" + kSingleFile))
    return WeightFiles{{kSingleFile}, {}, false};
  if (exists(directory + "/" + kIndexFile))
    return readIndex(directory + "/" + kIndexFile);
  return importError(directory + ": " + kSingleFile + " or " + kIndexFile +
                     " expected, neither found");
}

/// Tensors that some exporters add and that say nothing of their own: the output matrix of a model
/// that uses its embedding for it, and the RoPE frequencies, which follow from rope_theta.
bool isRedundant(StringRef name, const MixtralConfig &config) {
  return name.ends_with(".rotary_emb.inv_freq") ||
         (config.tieWordEmbeddings && name == "lm_head.weight");
}

/// Checks names and shapes against the configuration.
Error checkTensors(const std::map<std::string, TensorInfo> &tensors, const MixtralConfig &config,
                   ArrayRef<std::string> files, StringRef container) {
  StringMap<bool> expectedNames;
  for (const auto &[name, shape] : expectedTensors(config)) {
    expectedNames[name] = true;
    auto found = tensors.find(name);
    if (found == tensors.end())
      return importError(name + ": shape " + formatShape(shape) + " expected, missing (" +
                         container + ")");
    const TensorInfo &tensor = found->second;
    if (tensor.shape != shape)
      return importError(name + ": shape " + formatShape(shape) + " expected, file has " +
                         formatShape(tensor.shape) + " (" + files[tensor.file] + ")");
  }
  for (const auto &[name, tensor] : tensors)
    if (!expectedNames.contains(name))
      return importError(name + ": no such tensor expected by " + kConfigFile +
                         ", file has shape " + formatShape(tensor.shape) + " (" +
                         files[tensor.file] + ")");
  return Error::success();
}

Expected<MixtralConfig> readConfig(const std::string &path, StringRef origin) {
  Expected<InputFile> file = InputFile::open(path);
  if (!file)
    return file.takeError();
  return parseMixtralConfig(file->text(), origin);
}

} // namespace

Checkpoint::~Checkpoint() = default;

Expected<std::unique_ptr<Checkpoint>> Checkpoint::synthetic(StringRef path, uint64_t seed) {
  Expected<MixtralConfig> config = readConfig(path.str(), path);
  if (!config)
    return config.takeError();
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->impl_ = std::make_unique<Impl>();
  checkpoint->config_ = *config;
  checkpoint->seed_ = seed;
  checkpoint->files_ = {kSynthetic};
  for (auto &[name, shape] : expectedTensors(*config)) {
    TensorInfo tensor{name, 0, DType::BF16, shape, 0, dtypeBytes(DType::BF16)};
    for (uint64_t extent : shape)
      tensor.bytes *= extent;
    checkpoint->tensors_.emplace(name, std::move(tensor));
  }
  return checkpoint;
}

Expected<std::unique_ptr<Checkpoint>> Checkpoint::open(StringRef directoryRef) {
  std::string directory = directoryRef.str();
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->impl_ = std::make_unique<Impl>();

  Expected<MixtralConfig> config = readConfig(directory + "/" + kConfigFile, kConfigFile);
  if (!config)
    return config.takeError();
  checkpoint->config_ = *config;

  Expected<WeightFiles> weightFiles = findWeightFiles(directory);
  if (!weightFiles)
    return weightFiles.takeError();
  checkpoint->files_ = weightFiles->names;
  const auto *shardOfTensor = weightFiles->sharded ? &weightFiles->shardOfTensor : nullptr;
  for (uint32_t index = 0; index < checkpoint->files_.size(); ++index)
    if (Error error = checkpoint->addWeightFile(directory, index, shardOfTensor))
      return error;
  for (const auto &[tensor, shard] : weightFiles->shardOfTensor)
    if (!checkpoint->tensors_.contains(tensor))
      return importError(Twine(tensor) + ": expected by " + kIndexFile + ", missing (" + shard +
                         ")");
  std::erase_if(checkpoint->tensors_,
                [&](const auto &entry) { return isRedundant(entry.first, *config); });
  if (Error error = checkTensors(checkpoint->tensors_, *config, checkpoint->files_,
                                 weightFiles->sharded ? kIndexFile : kSingleFile))
    return error;

  if (!exists(directory + "/" + kTokenizerFile))
    return checkpoint;
  Expected<InputFile> tokenizer = InputFile::open(directory + "/" + kTokenizerFile);
  if (!tokenizer)
    return tokenizer.takeError();
  if (tokenizer->bytes().empty())
    return importError(Twine(kTokenizerFile) + ": a SentencePiece model expected, file is empty");
  checkpoint->impl_->tokenizer = std::move(*tokenizer);
  return checkpoint;
}

Error Checkpoint::addWeightFile(const std::string &directory, uint32_t index,
                                const std::map<std::string, std::string> *shardOfTensor) {
  const std::string &file = files_[index];
  Expected<InputFile> mapped = InputFile::open(directory + "/" + file);
  if (!mapped)
    return mapped.takeError();
  Expected<std::vector<TensorInfo>> tensors = parseSafetensorsHeader(mapped->bytes(), file);
  if (!tensors)
    return tensors.takeError();
  for (TensorInfo &tensor : *tensors) {
    if (shardOfTensor) {
      auto shard = shardOfTensor->find(tensor.name);
      if (shard == shardOfTensor->end() || shard->second != file)
        return importError(tensor.name + ": " +
                           (shard == shardOfTensor->end() ? "no such tensor" : shard->second) +
                           " expected by " + kIndexFile + ", found in " + file);
    }
    tensor.file = index;
    std::string name = tensor.name;
    tensors_.emplace(std::move(name), std::move(tensor));
  }
  impl_->weights.push_back(std::move(*mapped));
  return Error::success();
}

ArrayRef<uint8_t> Checkpoint::bytes(const TensorInfo &tensor) const {
  return impl_->weights[tensor.file].bytes().slice(tensor.offset, tensor.bytes);
}

ArrayRef<uint8_t> Checkpoint::tokenizer() const { return impl_->tokenizer.bytes(); }

void Checkpoint::release(const TensorInfo &tensor) const {
  impl_->weights[tensor.file].release(bytes(tensor));
}

Error Checkpoint::bringIn(const TensorInfo &tensor) const {
  if (Error error = impl_->weights[tensor.file].bringIn(bytes(tensor)))
    return importError(tensor.name + ": " + toString(std::move(error)) + " (" +
                       files_[tensor.file] + ")");
  return Error::success();
}

const FileStamp &Checkpoint::stampOf(uint32_t index) const { return impl_->weights[index].stamp(); }

} // namespace moeplan::compiler
