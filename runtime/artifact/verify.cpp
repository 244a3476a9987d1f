#include "runtime/artifact/artifact.h"

#include "runtime/support/hash.h"

#include <algorithm>

namespace moeplan {

namespace {

/// Bytes hashed between two reports of progress.
constexpr uint64_t kProgressBytes = 16 << 20;

} // namespace

Status Artifact::verify(const std::function<bool(uint64_t, uint64_t)> &progress) const {
  return verifyBytes(progress).withContext(path_);
}

Status Artifact::verifyBytes(const std::function<bool(uint64_t, uint64_t)> &progress) const {
  const std::span<const std::byte> bytes = file_.bytes();
  uint64_t done = 0;
  auto report = [&] { return !progress || progress(done, bytes.size()); };
  const Status cancelled(MOEPLAN_CANCELLED, "verification cancelled");

  // Between the parts lies nothing but zeros, so that every byte of the file is accounted for.
  auto checkPadding = [&](uint64_t begin, uint64_t end) -> Status {
    const auto padding = bytes.subspan(begin, end - begin);
    const auto it =
        std::find_if(padding.begin(), padding.end(), [](std::byte b) { return b != std::byte(0); });
    if (it == padding.end())
      return {};
    return corrupt("padding at byte " + std::to_string(begin + (it - padding.begin())) +
                   " is not zero");
  };
  uint64_t position = header_.metadata_offset + header_.metadata_size;
  MOEPLAN_TRY(checkPadding(position, header_.segment_base));

  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < metadata_->segments()->size(); ++i)
    if (!metadata_->segments()->Get(i)->synthetic())
      order.push_back(i);
  auto offset = [&](uint32_t i) { return metadata_->segments()->Get(i)->extent()->offset(); };
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return offset(a) < offset(b); });
  position = header_.segment_base;
  for (uint32_t index : order) {
    const fb::Segment *segment = metadata_->segments()->Get(index);
    const uint64_t begin = header_.segment_base + offset(index);
    MOEPLAN_TRY(checkPadding(position, begin));
    std::span<const std::byte> rest = stored(index);
    position = begin + rest.size();
    Hasher hasher;
    while (!rest.empty()) {
      const auto part = rest.first(std::min<uint64_t>(rest.size(), kProgressBytes));
      hasher.update(part);
      rest = rest.subspan(part.size());
      done = position - rest.size();
      if (!report())
        return cancelled;
    }
    if (hasher.digest() != segment->extent()->checksum())
      return corrupt("segment '" + segment->name()->str() + "': checksum does not match");
    if (segment->compression() != fb::Compression::none)
      MOEPLAN_TRY(load(index).status());
  }
  MOEPLAN_TRY(checkPadding(position, bytes.size()));
  done = bytes.size();
  return report() ? Status() : cancelled;
}

} // namespace moeplan
