#include "compiler/import/synthetic_checkpoint.h"

#include "compiler/import/checkpoint.h"
#include "compiler/import/input_file.h"
#include "compiler/pack/atomic_file.h"
#include "formats.h"
#include "runtime/artifact/synthetic_generator.h"

#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Path.h"

#include <nlohmann/json.hpp>

#include <algorithm>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

using Json = nlohmann::ordered_json;

/// Bytes generated at a time.
constexpr uint64_t kPartBytes = 8 << 20;

struct Tensor {
  std::string name;
  SmallVector<uint64_t, 2> shape;

  SyntheticWeight weight() const {
    const bool isVector = shape.size() == 1;
    return {name, findFormat(uint32_t(MOEPLAN_FORMAT_BF16)), isVector ? 1 : shape[0], shape.back(),
            isVector};
  }
  uint64_t bytes() const { return weight().rows * weight().columns * dtypeBytes(DType::BF16); }
};

uint64_t bytesOf(ArrayRef<Tensor> tensors) {
  uint64_t bytes = 0;
  for (const Tensor &tensor : tensors)
    bytes += tensor.bytes();
  return bytes;
}

ArrayRef<uint8_t> bytesOf(StringRef text) {
  return {reinterpret_cast<const uint8_t *>(text.data()), text.size()};
}

/// Length and JSON, padded with spaces so that the data behind it is aligned.
std::string safetensorsHeader(ArrayRef<Tensor> tensors) {
  Json json;
  json["__metadata__"]["format"] = "pt";
  uint64_t offset = 0;
  for (const Tensor &tensor : tensors) {
    Json &entry = json[tensor.name];
    entry["dtype"] = dtypeName(DType::BF16).str();
    entry["shape"] = std::vector<uint64_t>(tensor.shape.begin(), tensor.shape.end());
    entry["data_offsets"] = {offset, offset + tensor.bytes()};
    offset += tensor.bytes();
  }
  std::string text = json.dump();
  text.resize(alignTo(text.size(), 8), ' ');
  std::string header(sizeof(uint64_t), '\0');
  support::endian::write64le(header.data(), text.size());
  return header + text;
}

class Writer {
public:
  Writer(const SyntheticCheckpointOptions &options, std::vector<Tensor> tensors)
      : options(options), tensors(std::move(tensors)), total(bytesOf(this->tensors)),
        generator(options.seed) {}

  Expected<SyntheticCheckpointReport> run(StringRef config) {
    if (Error error = createDirectory())
      return error;
    auto cleanup = make_scope_exit([&] {
      for (const std::string &path : written)
        sys::fs::remove(path);
    });
    const std::vector<ArrayRef<Tensor>> shards = cut();
    Json index;
    index["metadata"]["total_size"] = total;
    for (size_t i = 0; i < shards.size(); ++i) {
      const std::string name =
          shards.size() == 1
              ? "model.safetensors"
              : formatv("model-{0,0+5}-of-{1,0+5}.safetensors", i + 1, shards.size()).str();
      if (Error error = writeShard(name, shards[i]))
        return error;
      for (const Tensor &tensor : shards[i])
        index["weight_map"][tensor.name] = name;
    }
    if (shards.size() > 1)
      if (Error error = writeText("model.safetensors.index.json", index.dump(2) + "\n"))
        return error;
    // Last: what has no configuration is no checkpoint.
    if (Error error = writeText("config.json", config))
      return error;
    cleanup.release();
    return SyntheticCheckpointReport{total, shards.size()};
  }

private:
  Error createDirectory() const {
    std::error_code error = sys::fs::create_directories(options.output);
    sys::fs::directory_iterator first;
    if (!error)
      first = sys::fs::directory_iterator(options.output, error);
    if (error)
      return createStringError(options.output + ": " + error.message());
    if (first != sys::fs::directory_iterator())
      return createStringError(options.output + ": an empty directory expected, it holds '" +
                               sys::path::filename(first->path()) + "'");
    return Error::success();
  }

  /// In model order, as many tensors to a file as the limit allows.
  std::vector<ArrayRef<Tensor>> cut() const {
    std::vector<ArrayRef<Tensor>> shards;
    size_t begin = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (i > begin && bytes + tensors[i].bytes() > options.maxShardBytes) {
        shards.push_back(ArrayRef(tensors).slice(begin, i - begin));
        begin = i;
        bytes = 0;
      }
      bytes += tensors[i].bytes();
    }
    shards.push_back(ArrayRef(tensors).drop_front(begin));
    return shards;
  }

  Expected<AtomicFile> create(StringRef name) {
    SmallString<128> path(options.output);
    sys::path::append(path, name);
    written.push_back(path.str().str());
    return AtomicFile::create(path);
  }

  Error writeText(StringRef name, StringRef text) {
    auto file = create(name);
    if (!file)
      return file.takeError();
    if (Error error = file->write(bytesOf(text)))
      return error;
    return file->commit();
  }

  Error writeShard(StringRef name, ArrayRef<Tensor> shard) {
    auto file = create(name);
    if (!file)
      return file.takeError();
    if (Error error = file->write(bytesOf(safetensorsHeader(shard))))
      return error;
    for (const Tensor &tensor : shard) {
      generator.prepare(tensor.weight());
      for (uint64_t begin = 0; begin < tensor.bytes(); begin += kPartBytes) {
        part.resize(std::min(kPartBytes, tensor.bytes() - begin));
        generator.fill(tensor.weight(), begin, std::as_writable_bytes(std::span(part)));
        if (Error error = file->write(part))
          return error;
        done += part.size();
        if (options.progress)
          options.progress(done, total);
      }
    }
    return file->commit();
  }

  const SyntheticCheckpointOptions &options;
  std::vector<Tensor> tensors;
  uint64_t total = 0, done = 0;
  SyntheticGenerator generator;
  std::vector<uint8_t> part;
  std::vector<std::string> written;
};

} // namespace

Expected<SyntheticCheckpointReport>
moeplan::compiler::writeSyntheticCheckpoint(const SyntheticCheckpointOptions &options) {
  auto file = InputFile::open(options.config);
  if (!file)
    return file.takeError();
  auto config = parseMixtralConfig(file->text(), options.config);
  if (!config)
    return config.takeError();
  std::vector<Tensor> tensors;
  for (auto &[name, shape] : expectedTensors(*config))
    tensors.push_back({name, shape});
  return Writer(options, std::move(tensors)).run(file->text());
}
