#include "compiler/calibrate/statistics.h"

#include "compiler/support/digest.h"
#include "formats.h"
#include "runtime/support/alignment.h"
#include "runtime/support/hash.h"
#include "statistics_header.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include <cmath>
#include <cstring>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

std::optional<ExpertLinear> ExpertLinear::parse(StringRef name) {
  ExpertLinear result{};
  if (!name.consume_front("layers.") || name.consumeInteger(10, result.layer) ||
      !name.consume_front(".experts.") || name.consumeInteger(10, result.expert) ||
      !name.consume_front("."))
    return std::nullopt;
  for (Linear linear : kLinears)
    if (name == kLinearNames[int(linear)]) {
      result.linear = linear;
      return result;
    }
  return std::nullopt;
}

std::string ExpertLinear::name() const { return expertName() + "." + kLinearNames[int(linear)]; }

std::string ExpertLinear::expertName() const {
  return ("layers." + Twine(layer) + ".experts." + Twine(expert)).str();
}

Expected<std::unique_ptr<Statistics>> Statistics::open(StringRef path, StringRef checkpointDigest) {
  auto file = InputFile::open(path.str());
  if (!file)
    return file.takeError();
  std::unique_ptr<Statistics> statistics(new Statistics());
  statistics->file_ = std::move(*file);
  if (Error error = statistics->read(path))
    return error;
  const StringRef made = statistics->metadata_->checkpoint_digest()->c_str();
  if (!checkpointDigest.empty() && made != checkpointDigest)
    return createStringError(path + ": was made from another checkpoint (digest " + made +
                             ", this one has " + checkpointDigest +
                             "); run 'moeplanc calibrate' on this one");
  return statistics;
}

Error Statistics::read(StringRef path) {
  auto corrupt = [&](const Twine &what) { return createStringError(path + ": " + what); };
  const ArrayRef<uint8_t> bytes = file_.bytes();
  StatisticsHeader header{};
  if (bytes.size() < sizeof(header) ||
      std::memcmp(bytes.data(), kStatisticsMagic, sizeof(kStatisticsMagic)) != 0)
    return corrupt("not a file of calibration statistics");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.file_size != bytes.size() || header.metadata_size > bytes.size() - sizeof(header))
    return corrupt("is cut short: " + Twine(bytes.size()) + " bytes, " + Twine(header.file_size) +
                   " were written");
  Hasher hasher;
  hasher.update(&header, offsetof(StatisticsHeader, checksum));
  hasher.update(bytes.data() + sizeof(header), header.metadata_size);
  if (hasher.digest() != header.checksum)
    return corrupt("header or metadata is damaged (checksum)");

  const uint8_t *buffer = bytes.data() + sizeof(header);
  flatbuffers::Verifier verifier(buffer, header.metadata_size);
  if (!fb::VerifyStatisticsBuffer(verifier))
    return corrupt("the metadata is no valid FlatBuffer");
  metadata_ = fb::GetStatistics(buffer);
  for (const flatbuffers::String *text :
       {metadata_->compiler_version(), metadata_->checkpoint_digest(), metadata_->text_digest()})
    if (!all_of(text->string_view(), isPrint))
      return corrupt("holds a text that is none");
  if (!isAligned(*metadata_->sensitivities()))
    return corrupt("has misaligned sensitivities");
  constexpr uint32_t kMaxExtent = 1u << 24; // as in artifacts
  for (uint32_t extent : {metadata_->hidden_size(), metadata_->intermediate_size(),
                          metadata_->num_layers(), metadata_->num_experts()})
    if (extent == 0 || extent > kMaxExtent)
      return corrupt("states impossible extents");
  if (metadata_->experts()->size() != uint64_t(metadata_->num_layers()) * metadata_->num_experts())
    return corrupt("has the wrong number of experts");
  for (const fb::ExpertStatistics *expert : *metadata_->experts()) {
    if (!std::isfinite(expert->routing_weight()))
      return corrupt("holds a routing weight that is no number");
    Error error = checkMoments(*expert->input(), metadata_->hidden_size());
    if (!error)
      error = checkMoments(*expert->hidden(), metadata_->intermediate_size());
    if (error)
      return corrupt(toString(std::move(error)));
  }
  for (const fb::Sensitivity *s : *metadata_->sensitivities())
    if (s->layer() >= metadata_->num_layers() || s->expert() >= metadata_->num_experts() ||
        s->linear() > uint16_t(Linear::w2) || !findFormat(uint32_t(s->format())))
      return corrupt("has a sensitivity of nothing that exists");
  for (const fb::Sensitivity *s : *metadata_->sensitivities())
    if (!std::isfinite(s->predicted()) || !std::isfinite(s->measured_divergence()) ||
        !std::isfinite(s->measured_increase()) || !std::isfinite(s->standard_error()))
      return corrupt("has a sensitivity that is no number");
  if (!std::isfinite(metadata_->held_out_nll()))
    return corrupt("has a likelihood that is no number");
  return Error::success();
}

Error Statistics::checkMoments(const fb::Moments &moments, uint64_t columns) const {
  const uint64_t size = file_.bytes().size();
  if (moments.block() == 0 || moments.block() > columns ||
      // Groups of columns must not straddle blocks.
      (moments.block() != 1 && moments.block() != columns && moments.block() % 128 != 0))
    return createStringError("has moments in blocks of " + Twine(moments.block()));
  if (moments.bytes() != momentCount(columns, moments.block()) * sizeof(float) ||
      moments.offset() % kMomentsAlignment != 0 || moments.offset() > size ||
      moments.bytes() > size - moments.offset())
    return createStringError("has moments that lie outside the file");
  Hasher hasher;
  hasher.update(file_.bytes().data() + moments.offset(), moments.bytes());
  if (hasher.digest() != moments.checksum())
    return createStringError("moments are damaged (checksum)");
  const auto *values = reinterpret_cast<const float *>(file_.bytes().data() + moments.offset());
  for (uint64_t i = 0; i < moments.bytes() / sizeof(float); ++i)
    if (!std::isfinite(values[i]))
      return createStringError("moments hold a NaN or an infinity");
  file_.release(file_.bytes().slice(moments.offset(), moments.bytes()));
  return Error::success();
}

std::string Statistics::digest() const { return digestOf(file_.bytes()); }

const fb::Moments &Statistics::momentsOf(const ExpertLinear &linear) const {
  const fb::ExpertStatistics &expert = this->expert(linear.layer, linear.expert);
  return linear.linear == Linear::w2 ? *expert.hidden() : *expert.input();
}

SecondMoments Statistics::moments(const ExpertLinear &linear) const {
  const fb::Moments &m = momentsOf(linear);
  return {linear.linear == Linear::w2 ? metadata_->intermediate_size() : metadata_->hidden_size(),
          m.block(), reinterpret_cast<const float *>(file_.bytes().data() + m.offset())};
}

std::string Statistics::momentsDigest(const ExpertLinear &linear) const {
  const SecondMoments m = moments(linear);
  return ListDigest()
      .add(uint64_t(m.columns))
      .add(uint64_t(m.block))
      .add(momentsOf(linear).checksum()) // which has been checked
      .hex();
}

void Statistics::release(const ExpertLinear &linear) const {
  const fb::Moments &m = momentsOf(linear);
  file_.release(file_.bytes().slice(m.offset(), m.bytes()));
}
