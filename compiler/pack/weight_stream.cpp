#include "compiler/pack/weight_stream.h"

#include "compiler/quantize/convert.h"
#include "compiler/support/handover.h"
#include "formats.h"
#include "runtime/support/hash.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include <atomic>
#include <mutex>
#include <thread>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Tensors that are read ahead of the one that is quantised, and segments that wait to be written.
constexpr size_t kReadAhead = 1, kToWrite = 1;
/// Numbers that a thread converts at a time: they stay in its cache.
constexpr uint64_t kElementsPerPart = 1 << 20;
/// What the cache leaves of its file system.
constexpr uint64_t kLeaveFree = uint64_t(1) << 30;

/// A tensor that is in memory, or need not be.
struct Read {
  const std::vector<StreamedWeight *> *weights;
  std::string digest;
};

/// A segment that is ready.
struct Made {
  StreamedWeight *weight;
  std::vector<uint8_t> bytes;
  std::unique_ptr<MemoryBuffer> cached; ///< in place of `bytes`
  std::optional<CacheKey> key;          ///< to store it under

  ArrayRef<uint8_t> content() const {
    return cached ? arrayRefFromStringRef(cached->getBuffer()) : ArrayRef(bytes);
  }
};

class WeightStream {
public:
  WeightStream(std::vector<StreamedWeight> &weights, const WeightStreamTools &tools)
      : tools(tools) {
    for (StreamedWeight &weight : weights) {
      byTensor[weight.tensor].push_back(&weight);
      total += weight.bytes;
    }
  }

  Expected<WeightStreamReport> run() {
    std::thread reader([&] { readAll(); });
    std::thread writer([&] { writeAll(); });
    while (std::optional<Read> next = read.take())
      if (!makeAll(*next))
        break;
    read.close(); // where it was left early
    made.close();
    reader.join();
    writer.join();
    if (problem)
      return createStringError(*problem);
    return report;
  }

private:
  /// The first error stays, and everything ends.
  bool check(Error error) {
    if (!error)
      return true;
    std::lock_guard lock(mutex);
    if (std::string message = toString(std::move(error)); !problem)
      problem = std::move(message);
    read.close();
    made.close();
    return false;
  }

  CacheKey keyOf(const StreamedWeight &weight, const std::string &digest) {
    CacheKey key("weight");
    key.add(MOEPLAN_QUANTIZER_SOURCES).add(tools.quantizer.recipe(weight.name, *weight.format));
    key.add(StringRef(weight.format->name)).add(digest);
    return key;
  }

  /// The reading thread.
  void readAll() {
    for (auto &[tensor, weights] : byTensor) {
      const bool known = tools.digest.isKnown(*tensor);
      auto digest = tools.digest.of(*tensor);
      if (!check(digest.takeError()))
        return;
      const bool needed =
          known && any_of(weights, [&](const StreamedWeight *weight) {
            return !weight->format->isPacked() || !tools.cache.contains(keyOf(*weight, *digest));
          });
      if (needed && !check(tools.checkpoint.bringIn(*tensor)))
        return;
      if (!read.give({&weights, std::move(*digest)}))
        return;
    }
    read.close();
  }

  bool makeAll(const Read &next) {
    for (StreamedWeight *weight : *next.weights) {
      Made segment{weight, {}, nullptr, std::nullopt};
      if (!check(weight->format->isPacked() ? quantize(next.digest, segment) : convert(segment)) ||
          !made.give(std::move(segment)))
        return false;
    }
    tools.checkpoint.release(*next.weights->front()->tensor);
    return true;
  }

  Error quantize(const std::string &digest, Made &segment) {
    const StreamedWeight &weight = *segment.weight;
    const CacheKey key = keyOf(weight, digest);
    segment.cached = tools.cache.find(key);
    if (segment.cached && segment.cached->getBufferSize() == weight.bytes) {
      ++report.fromCache;
      tools.quantizer.noteUse(weight.name, *weight.format);
      return Error::success();
    }
    segment.cached = nullptr;
    segment.key = key;
    segment.bytes.resize(weight.bytes);
    const TensorInfo &tensor = *weight.tensor;
    const TensorView view{tensor.name, tensor.dtype, tools.checkpoint.bytes(tensor).data(),
                          tensor.shape[0], tensor.shape[1]};
    ++report.quantized;
    return tools.quantizer.quantize(weight.name, view, *weight.format, segment.bytes);
  }

  Error convert(Made &segment) {
    const StreamedWeight &weight = *segment.weight;
    const TensorInfo &tensor = *weight.tensor;
    const FormatInfo &format = *weight.format;
    const uint8_t *in = tools.checkpoint.bytes(tensor).data();
    const uint64_t columns = tensor.shape.back();
    const uint64_t rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];
    // Whole tiles of rows at a time: packed, they follow each other as the rows do.
    const uint64_t stripRows =
        std::max<uint64_t>(kElementsPerPart / columns / MOEPLAN_TILE_ROWS, 1) * MOEPLAN_TILE_ROWS;
    segment.bytes.resize(weight.bytes);
    std::atomic<uint64_t> nextRow{0};
    const auto work = [&] {
      std::vector<uint8_t> elements;
      for (uint64_t row; (row = nextRow.fetch_add(stripRows)) < rows;) {
        const uint64_t count = std::min(stripRows, rows - row);
        elements.resize(count * columns * format.bits / 8);
        convertElements(tensor.dtype, in + row * columns * dtypeBytes(tensor.dtype),
                        count * columns, format, elements.data());
        format.packing->pack({format.bits, format.groupSize, count, columns},
                             {elements.data(), nullptr, nullptr},
                             segment.bytes.data() + *formatBytes(format, row, columns));
      }
    };
    ThreadPoolInterface &threads = tools.quantizer.threads();
    ThreadPoolTaskGroup group(threads);
    for (uint64_t i = 1; i < threads.getMaxConcurrency() && i * stripRows < rows; ++i)
      group.async(work);
    work();
    group.wait();
    return Error::success();
  }

  /// The writing thread.
  void writeAll() {
    uint64_t done = 0;
    while (std::optional<Made> segment = made.take()) {
      const ArrayRef<uint8_t> bytes = segment->content();
      Hasher hasher;
      hasher.update(bytes.data(), bytes.size());
      segment->weight->checksum = hasher.digest();
      if (!check(tools.file.writeAt(segment->weight->offset, bytes)))
        return;
      if (segment->key)
        tools.cache.store(*segment->key, bytes, kLeaveFree);
      done += bytes.size();
      if (tools.progress)
        tools.progress(done, total);
    }
  }

  const WeightStreamTools &tools;
  MapVector<const TensorInfo *, std::vector<StreamedWeight *>> byTensor;
  uint64_t total = 0;
  Handover<Read> read{kReadAhead};
  Handover<Made> made{kToWrite};
  WeightStreamReport report;
  std::mutex mutex;
  std::optional<std::string> problem;
};

} // namespace

Expected<WeightStreamReport> moeplan::compiler::streamWeights(std::vector<StreamedWeight> &weights,
                                                              const WeightStreamTools &tools) {
  return WeightStream(weights, tools).run();
}
