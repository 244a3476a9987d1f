#include "runtime/artifact/weight_loader.h"

#include "artifact_header.h"
#include "runtime/artifact/programs.h"
#include "runtime/support/file_reader.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace moeplan {

namespace {

/// Bytes that a thread reads at a time, and threads: so much is under way at once on a fast disk.
constexpr uint64_t kPartBytes = 4 << 20;
constexpr unsigned kThreads = 8;

uint64_t wholePages(uint64_t bytes) {
  return (bytes + kMappedAlignment - 1) / kMappedAlignment * kMappedAlignment;
}

/// A part of a weight.
struct Part {
  std::span<const std::byte> mapped;
  std::byte *target; ///< null: it stays mapped
  size_t piece;      ///< of the file
  uint64_t offset;   ///< in that
  FileReader::Mode mode;
};

class Loader {
public:
  Loader(const MappedFile &file, const LoadOptions &options)
      : file_(file), options_(options), reader_(file) {}

  /// `target` null: it is only touched.
  void add(std::span<const std::byte> mapped, std::byte *target,
           FileReader::Mode mode = FileReader::Mode::cached) {
    total_ += mapped.size();
    auto begin = static_cast<uint64_t>(mapped.data() - file_.bytes().data());
    for (size_t i = 0; i < file_.pieces().size(); ++i) {
      const FilePiece &piece = file_.pieces()[i];
      while (!mapped.empty() && begin >= piece.begin && begin < piece.begin + piece.bytes) {
        const uint64_t bytes = std::min(
            {kPartBytes, static_cast<uint64_t>(mapped.size()), piece.begin + piece.bytes - begin});
        parts_.push_back(
            {mapped.first(bytes), target, i, piece.offset + begin - piece.begin, mode});
        mapped = mapped.subspan(bytes);
        target = target ? target + bytes : nullptr;
        begin += bytes;
      }
    }
  }

  Status run() {
    for (const Part &part : parts_)
      if (part.target)
        MOEPLAN_TRY(reader_.open(part.piece, part.mode));
    const size_t threads = options_.threads ? options_.threads : kThreads;
    std::vector<std::jthread> helpers;
    try {
      while (helpers.size() + 1 < std::min(threads, parts_.size()))
        helpers.emplace_back([this] { work([] { return true; }); });
    } catch (const std::system_error &) { // no more threads: those there are do it
    }
    work([this] { return !options_.progress || options_.progress(done_, total_); });
    helpers.clear(); // joined
    // All of it may have been done by the helpers: the last word is the caller's.
    if (failure_.ok() && options_.progress && !options_.progress(done_, total_))
      return cancelled();
    return std::move(failure_);
  }

private:
  template <typename KeepGoing> void work(KeepGoing &&keepGoing) {
    for (size_t i = next_++; i < parts_.size() && !stopped_; i = next_++) {
      const Part &part = parts_[i];
      Status status = part.target ? reader_.readPiece(part.piece, part.offset, part.target,
                                                      part.mapped.size(), part.mode)
                                  : touch(part);
      done_ += part.mapped.size();
      if (status.ok() && !keepGoing())
        status = cancelled();
      if (!status.ok())
        stop(std::move(status).withContext(file_.pieces()[part.piece].path));
    }
  }
  void stop(Status status) {
    const std::lock_guard lock(mutex_);
    if (failure_.ok())
      failure_ = std::move(status);
    stopped_ = true;
  }

  static Status cancelled() { return Status(MOEPLAN_CANCELLED, "loading was cancelled"); }

  Status touch(const Part &part) {
    file_.readAhead(part.mapped);
    return file_.bringIn(part.mapped);
  }

  const MappedFile &file_;
  const LoadOptions &options_;
  FileReader reader_;
  std::vector<Part> parts_;
  uint64_t total_ = 0;
  std::atomic<size_t> next_{0};
  std::atomic<uint64_t> done_{0};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  Status failure_;
};

/// Collects segments, each once.
class SegmentList {
public:
  explicit SegmentList(const fb::Artifact &artifact)
      : artifact_(artifact), seen_(artifact.segments()->size()) {}

  void addPlan(const fb::Plan &plan) {
    for (const fb::Program *program : allPrograms(plan))
      addProgram(plan, *program);
  }
  std::vector<uint32_t> take() { return std::move(order_); }

private:
  void add(uint32_t segment) {
    if (!seen_[segment])
      order_.push_back(segment);
    seen_[segment] = true;
  }
  void addBinding(const fb::Plan &plan, const fb::Binding &binding) {
    if (binding.kind() == fb::BindingKind::segment)
      add(binding.index());
    if (binding.kind() != fb::BindingKind::experts)
      return;
    const uint32_t count = artifact_.model()->num_experts();
    for (uint32_t expert = binding.index() * count; expert < (binding.index() + 1) * count;
         ++expert)
      for (uint32_t segment : {plan.experts()->Get(expert)->w1(), plan.experts()->Get(expert)->w3(),
                               plan.experts()->Get(expert)->w2()})
        add(segment);
  }
  void addProgram(const fb::Plan &plan, const fb::Program &program) {
    for (uint32_t i = 0; i < program.commands()->size(); ++i)
      switch (program.commands_type()->GetEnum<fb::Command>(i)) {
      case fb::Command::Dispatch:
        for (const fb::Binding *binding : *program.commands()->GetAs<fb::Dispatch>(i)->bindings())
          addBinding(plan, *binding);
        break;
      case fb::Command::Copy:
        addBinding(plan, *program.commands()->GetAs<fb::Copy>(i)->source());
        break;
      default:
        break;
      }
  }

  const fb::Artifact &artifact_;
  std::vector<bool> seen_;
  std::vector<uint32_t> order_;
};

/// By segment: whether it is of an expert, in any plan.
std::vector<bool> expertSegments(const fb::Artifact &artifact) {
  std::vector<bool> experts(artifact.segments()->size());
  for (const fb::Plan *plan : *artifact.plans())
    for (const fb::Expert *expert : *plan->experts())
      for (uint32_t segment : {expert->w1(), expert->w3(), expert->w2()})
        experts[segment] = true;
  return experts;
}

} // namespace

std::vector<uint32_t> weightsInProgramOrder(const fb::Artifact &artifact, const fb::Plan *plan) {
  SegmentList list(artifact);
  for (const fb::Plan *each : *artifact.plans())
    if (!plan || each == plan)
      list.addPlan(*each);
  return list.take();
}

Result<LoadedWeights> LoadedWeights::load(const fb::Artifact &artifact, const MappedFile &file,
                                          uint64_t segmentBase, const LoadOptions &options) {
  struct Wanted {
    uint32_t segment;
    std::span<const std::byte> mapped;
    LoadMode mode;
    uint64_t offset; ///< in the memory
  };
  std::vector<Wanted> wanted;
  uint64_t total = 0;
  const std::vector<bool> experts = expertSegments(artifact);
  for (uint32_t segment : weightsInProgramOrder(artifact, options.plan)) {
    const fb::Extent &extent = *artifact.segments()->Get(segment)->extent();
    const LoadMode mode = experts[segment] ? options.experts : options.others;
    wanted.push_back({segment,
                      file.bytes().subspan(segmentBase + extent.offset(), extent.stored_bytes()),
                      mode, total});
    if (mode != LoadMode::mapped)
      total += wholePages(extent.stored_bytes());
  }
  // The system promises more memory than it has, and ends the process that uses it.
  if (const auto available = availableMemoryBytes(); available && *available < total)
    return exhausted(file.pieces().front().path + ": the weights take " + std::to_string(total) +
                     " bytes, the machine has " + std::to_string(*available) + " left");
  LoadedWeights weights;
  MOEPLAN_ASSIGN(weights.memory_, HostMemory::allocate(total, "weights"));
  if (options.hugePages)
    weights.memory_.useHugePages();
  weights.bytes_.resize(artifact.segments()->size());
  Loader loader(file, options);
  for (const Wanted &weight : wanted) {
    if (weight.mode == LoadMode::mapped) {
      if (options.preload)
        loader.add(weight.mapped, nullptr);
      continue;
    }
    std::byte *target = weights.memory_.data() + weight.offset;
    weights.bytes_[weight.segment] = {target, weight.mapped.size()};
    loader.add(weight.mapped, target,
               weight.mode == LoadMode::direct ? FileReader::Mode::direct
                                               : FileReader::Mode::cached);
  }
  MOEPLAN_TRY(loader.run());
  return weights;
}

} // namespace moeplan
