#include "runtime/device/memory.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <sys/mman.h>
#include <utility>

namespace moeplan {

Result<HostMemory> HostMemory::allocate(uint64_t bytes, const char *purpose) {
  HostMemory memory;
  if (bytes == 0)
    return memory;
  void *data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    return exhausted("cannot allocate " + std::to_string(bytes) + " bytes for the " + purpose +
                     ": " + std::strerror(errno));
  memory.data_ = static_cast<std::byte *>(data);
  memory.bytes_ = bytes;
  return memory;
}

HostMemory::~HostMemory() {
  if (data_)
    munmap(data_, bytes_);
}

HostMemory::HostMemory(HostMemory &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostMemory &HostMemory::operator=(HostMemory &&other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void HostMemory::useHugePages() const {
  if (data_)
    (void)madvise(data_, bytes_, MADV_HUGEPAGE);
}

std::optional<uint64_t> availableMemoryBytes() {
  // Lines as "MemAvailable:   12345 kB", where kB are KiB: proc(5).
  std::ifstream file("/proc/meminfo");
  std::optional<uint64_t> available;
  std::string line;
  while (std::getline(file, line))
    for (const char *field : {"MemAvailable:", "SwapFree:"})
      if (line.starts_with(field))
        available = available.value_or(0) +
                    std::strtoull(line.c_str() + std::strlen(field), nullptr, 10) * 1024;
  return available;
}

} // namespace moeplan
