#include "runtime/artifact/synthetic_weights.h"

#include "artifact_header.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

namespace moeplan {

namespace {

/// Bytes that a thread generates before it looks for more to do.
constexpr uint64_t kPartBytes = 16 << 20;

struct Part {
  SyntheticWeight weight;
  uint64_t begin; ///< in the weight
  std::span<std::byte> out;
};

void fill(const SyntheticGenerator &generator, const std::vector<Part> &parts, unsigned threads) {
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i = next++; i < parts.size(); i = next++)
      generator.fill(parts[i].weight, parts[i].begin, parts[i].out);
  };
  std::vector<std::jthread> helpers;
  try {
    while (helpers.size() + 1 < std::min<size_t>(threads, parts.size()))
      helpers.emplace_back(work);
  } catch (const std::system_error &) { // no more threads: those there are do it
  }
  work();
}

} // namespace

SyntheticWeight syntheticWeightOf(const fb::Segment &segment) {
  const auto &shape = *segment.shape();
  const bool isVector = shape.size() == 1;
  return {segment.name()->string_view(), findFormat(uint32_t(segment.format())),
          isVector ? 1 : shape.Get(0), shape.Get(shape.size() - 1), isVector};
}

SyntheticGenerator syntheticGeneratorOf(const fb::Artifact &artifact) {
  SyntheticGenerator generator(artifact.synthetic_seed().value_or(0));
  for (const fb::Segment *segment : *artifact.segments())
    if (segment->synthetic())
      generator.prepare(syntheticWeightOf(*segment));
  return generator;
}

Status SyntheticWeights::generate(const fb::Artifact &artifact, const SyntheticGenerator &generator,
                                  std::span<const uint32_t> segments, unsigned threads) {
  std::vector<std::pair<uint32_t, uint64_t>> wanted; // and where in the memory
  std::vector<bool> seen(bytes_.size());
  uint64_t total = 0;
  for (const uint32_t index : segments)
    if (const fb::Segment &segment = *artifact.segments()->Get(index);
        segment.synthetic() && bytes_[index].empty() && !seen[index]) {
      seen[index] = true;
      wanted.emplace_back(index, total);
      total +=
          (segment.extent()->bytes() + kMappedAlignment - 1) / kMappedAlignment * kMappedAlignment;
    }
  if (wanted.empty())
    return {};
  // The system promises more memory than it has, and ends the process that uses it.
  if (const auto available = availableMemoryBytes(); available && *available < total)
    return exhausted("the synthetic weights take " + std::to_string(total) +
                     " bytes, the machine has " + std::to_string(*available) + " left");
  MOEPLAN_ASSIGN(HostMemory memory, HostMemory::allocate(total, "synthetic weights"));
  memory.useHugePages();
  std::vector<Part> parts;
  for (const auto &[index, offset] : wanted) {
    const fb::Segment &segment = *artifact.segments()->Get(index);
    const std::span<std::byte> bytes(memory.data() + offset, segment.extent()->bytes());
    for (uint64_t begin = 0; begin < bytes.size(); begin += kPartBytes)
      parts.push_back({syntheticWeightOf(segment), begin,
                       bytes.subspan(begin, std::min(kPartBytes, bytes.size() - begin))});
  }
  fill(generator, parts, threads);
  for (const auto &[index, offset] : wanted)
    bytes_[index] = {memory.data() + offset, artifact.segments()->Get(index)->extent()->bytes()};
  memory_.push_back(std::move(memory));
  return {};
}

} // namespace moeplan
