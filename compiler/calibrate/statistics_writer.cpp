#include "compiler/calibrate/statistics_writer.h"

#include "runtime/support/hash.h"
#include "statistics_header.h"

#include "llvm/Support/MathExtras.h"

#include <cstring>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Where the moments of each expert's two inputs lie: input, then hidden.
using Placement = std::vector<std::pair<fb::Moments, fb::Moments>>;

std::vector<uint8_t> metadata(const StatisticsHead &head, ArrayRef<ExpertMoments> experts,
                              ArrayRef<fb::Sensitivity> sensitivities, const Placement &placement) {
  flatbuffers::FlatBufferBuilder builder;
  std::vector<flatbuffers::Offset<fb::ExpertStatistics>> tables;
  for (auto [index, expert] : enumerate(experts))
    tables.push_back(fb::CreateExpertStatistics(builder, expert.tokens, expert.routingWeight,
                                                &placement[index].first, &placement[index].second));
  const auto version = builder.CreateString(head.compilerVersion);
  const auto checkpoint = builder.CreateString(head.checkpointDigest);
  const auto text = builder.CreateString(head.textDigest);
  const auto expertTables = builder.CreateVector(tables);
  const auto rows =
      builder.CreateVectorOfStructs(sensitivities.data(), size_t(sensitivities.size()));
  builder.Finish(fb::CreateStatistics(builder, version, checkpoint, text, head.context,
                                      head.windows, head.heldOutWindows, head.tokens,
                                      head.hiddenSize, head.intermediateSize, head.numLayers,
                                      head.numExperts, head.numExpertsPerToken, head.heldOutNll,
                                      expertTables, rows),
                 fb::StatisticsIdentifier());
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

} // namespace

Expected<uint64_t> moeplan::compiler::writeStatistics(
    AtomicFile &file, const StatisticsHead &head, ArrayRef<ExpertMoments> experts,
    ArrayRef<fb::Sensitivity> sensitivities,
    function_ref<std::vector<float>(uint64_t index, bool hidden)> triangles) {
  // The size of the metadata does not depend on what it says of the moments.
  Placement placement(experts.size());
  const uint64_t metadataBytes = metadata(head, experts, sensitivities, placement).size();
  if (Error error = file.padTo(sizeof(StatisticsHeader) + metadataBytes))
    return error;
  for (uint64_t index = 0; index < experts.size(); ++index)
    for (bool hidden : {false, true}) {
      if (Error error = file.padTo(alignTo(file.position(), kMomentsAlignment)))
        return error;
      const std::vector<float> values = triangles(index, hidden);
      const uint64_t bytes = values.size() * sizeof(float);
      Hasher hasher;
      hasher.update(values.data(), bytes);
      (hidden ? placement[index].second : placement[index].first) =
          fb::Moments(file.position(), bytes, hasher.digest(),
                      hidden ? experts[index].hiddenBlock : experts[index].inputBlock);
      if (Error error = file.write({reinterpret_cast<const uint8_t *>(values.data()), bytes}))
        return error;
    }
  const std::vector<uint8_t> bytes = metadata(head, experts, sensitivities, placement);
  StatisticsHeader header{};
  std::memcpy(header.magic, kStatisticsMagic, sizeof(header.magic));
  header.metadata_size = bytes.size();
  header.file_size = file.position();
  Hasher hasher;
  hasher.update(&header, offsetof(StatisticsHeader, checksum));
  hasher.update(bytes.data(), bytes.size());
  header.checksum = hasher.digest();
  if (Error error = file.writeAt(0, {reinterpret_cast<const uint8_t *>(&header), sizeof(header)}))
    return error;
  if (Error error = file.writeAt(sizeof(header), bytes))
    return error;
  if (Error error = file.commit())
    return error;
  return header.file_size;
}
