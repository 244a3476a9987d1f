#include "compiler/cache/build_cache.h"

#include "compiler/pack/atomic_file.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <tuple>
#include <unistd.h>
#include <utime.h>
#include <vector>

using namespace llvm;
using namespace moeplan::compiler;

namespace {

/// Before the bytes of an entry.
struct EntryHeader {
  char magic[8];
  uint64_t bytes;
  XXH128_canonical_t checksum;
};
static_assert(sizeof(EntryHeader) == 32);
constexpr char kMagic[8] = {'M', 'O', 'E', 'C', 'A', 'C', 'H', '1'};
/// Below the directory: a later format of entries lies beside it.
constexpr const char *kFormatDirectory = "v1";
constexpr StringLiteral kLock = "lock";
/// Temporary files that are older were left by a process that was killed.
constexpr auto kStale = std::chrono::hours(24);

XXH128_canonical_t checksumOf(ArrayRef<uint8_t> bytes) {
  XXH128_canonical_t checksum;
  XXH128_canonicalFromHash(&checksum, XXH3_128bits(bytes.data(), bytes.size()));
  return checksum;
}

struct Entry {
  std::string path;
  uint64_t bytes;
  sys::TimePoint<> lastUse;
};

/// All files of the directory, those of killed processes removed.
std::vector<Entry> entriesOf(const std::string &directory) {
  std::vector<Entry> entries;
  std::error_code error;
  const auto now = std::chrono::system_clock::now();
  for (sys::fs::recursive_directory_iterator file(directory, error), end; file != end && !error;
       file.increment(error)) {
    sys::fs::file_status status;
    if (sys::fs::status(file->path(), status) || status.type() != sys::fs::file_type::regular_file)
      continue;
    if (sys::path::filename(file->path()) == kLock)
      continue;
    const bool temporary = StringRef(file->path()).contains(".tmp.");
    if (temporary && now - status.getLastModificationTime() > kStale)
      (void)sys::fs::remove(file->path());
    else if (!temporary)
      entries.push_back({file->path(), status.getSize(), status.getLastModificationTime()});
  }
  return entries;
}

uint64_t sumOf(ArrayRef<Entry> entries) {
  uint64_t sum = 0;
  for (const Entry &entry : entries)
    sum += entry.bytes;
  return sum;
}

} // namespace

Expected<std::unique_ptr<BuildCache>> BuildCache::open(std::string directory, uint64_t maxBytes) {
  if (directory.empty())
    return std::make_unique<BuildCache>();
  SmallString<128> path(directory);
  sys::path::append(path, kFormatDirectory);
  if (std::error_code error = sys::fs::create_directories(path))
    return createStringError(directory + ": " + error.message());
  std::unique_ptr<BuildCache> cache(new BuildCache(path.str().str(), maxBytes));
  cache->bytes_ = sumOf(entriesOf(cache->directory_));
  if (cache->bytes_ > maxBytes)
    cache->trim();
  return cache;
}

BuildCache::~BuildCache() = default;

std::string BuildCache::pathOf(const CacheKey &key) const {
  const std::string digest = key.hex();
  SmallString<128> path(directory_);
  sys::path::append(path, StringRef(digest).take_front(2),
                    StringRef(digest).drop_front(2) + "." + key.kind());
  return path.str().str();
}

bool BuildCache::contains(const CacheKey &key) const {
  return isOn() && sys::fs::exists(pathOf(key));
}

std::unique_ptr<MemoryBuffer> BuildCache::find(const CacheKey &key) const {
  if (!isOn())
    return nullptr;
  const std::string path = pathOf(key);
  auto file = MemoryBuffer::getFile(path, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!file)
    return nullptr;
  const ArrayRef<uint8_t> all = arrayRefFromStringRef((*file)->getBuffer());
  EntryHeader header{};
  if (all.size() >= sizeof(header))
    std::memcpy(&header, all.data(), sizeof(header));
  const ArrayRef<uint8_t> bytes = all.drop_front(std::min(all.size(), sizeof(header)));
  const XXH128_canonical_t checksum = checksumOf(bytes);
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0 || header.bytes != bytes.size() ||
      std::memcmp(&header.checksum, &checksum, sizeof(checksum)) != 0) {
    (void)sys::fs::remove(path);
    return nullptr;
  }
  (void)utime(path.c_str(), nullptr); // it has been used
  // The part behind the header, which keeps the whole.
  class Slice : public MemoryBuffer {
  public:
    explicit Slice(std::unique_ptr<MemoryBuffer> whole) : whole_(std::move(whole)) {
      init(whole_->getBufferStart() + sizeof(EntryHeader), whole_->getBufferEnd(),
           /*RequiresNullTerminator=*/false);
    }
    BufferKind getBufferKind() const override { return whole_->getBufferKind(); }

  private:
    std::unique_ptr<MemoryBuffer> whole_;
  };
  return std::make_unique<Slice>(std::move(*file));
}

bool BuildCache::store(const CacheKey &key, ArrayRef<uint8_t> bytes, uint64_t leaveFree) {
  const uint64_t size = sizeof(EntryHeader) + bytes.size();
  if (!isOn() || !makeRoom(size))
    return false;
  const std::string path = pathOf(key);
  if (sys::fs::create_directories(sys::path::parent_path(path)))
    return false;
  auto file = AtomicFile::create(path);
  if (!file) {
    consumeError(file.takeError());
    return false;
  }
  EntryHeader header{{}, bytes.size(), checksumOf(bytes)};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  Error error = file->checkSpace(size + leaveFree);
  if (!error)
    error = file->write({reinterpret_cast<const uint8_t *>(&header), sizeof(header)});
  if (!error)
    error = file->write(bytes);
  if (!error)
    error = file->commit(AtomicFile::Durability::ordinary);
  if (error) {
    consumeError(std::move(error));
    return false;
  }
  return true;
}

bool BuildCache::makeRoom(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes_ + bytes > maxBytes_ && !isFull_) {
    trim();
    isFull_ = bytes_ + bytes > maxBytes_; // until the end: what is in use stays so
  }
  if (bytes_ + bytes > maxBytes_)
    return false;
  bytes_ += bytes;
  return true;
}

void BuildCache::trim() {
  SmallString<128> lockPath(directory_);
  sys::path::append(lockPath, kLock);
  const int lock = ::open(lockPath.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock < 0)
    return;
  if (flock(lock, LOCK_EX | LOCK_NB) == 0) {
    std::vector<Entry> entries = entriesOf(directory_);
    std::sort(entries.begin(), entries.end(), [](const Entry &a, const Entry &b) {
      return std::tie(a.lastUse, a.path) < std::tie(b.lastUse, b.path);
    });
    bytes_ = sumOf(entries);
    for (const Entry &entry : entries) {
      if (bytes_ <= maxBytes_ - maxBytes_ / 10 || entry.lastUse >= opened_)
        break;
      if (!sys::fs::remove(entry.path))
        bytes_ -= entry.bytes;
    }
  }
  close(lock); // and with it the lock
}

std::string BuildCache::defaultDirectory() {
  const auto named = sys::Process::GetEnv("XDG_CACHE_HOME");
  SmallString<128> path;
  if (named && sys::path::is_absolute(*named))
    path = *named;
  else if (!sys::path::home_directory(path))
    return {};
  else
    sys::path::append(path, ".cache");
  sys::path::append(path, "moeplan");
  return path.str().str();
}
