#include "runtime/device/host_info.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <unistd.h>

namespace moeplan {

namespace {

std::string firstLine(const std::filesystem::path &path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// "8192K" -> bytes; sysfs writes K and M.
uint64_t bytesOf(const std::string &text) {
  char *end = nullptr;
  const uint64_t number = std::strtoull(text.c_str(), &end, 10);
  return *end == 'K' ? number << 10 : *end == 'M' ? number << 20 : number;
}

} // namespace

std::string cpuName() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line))
    if (line.starts_with("model name"))
      if (const size_t colon = line.find(": "); colon != std::string::npos)
        return line.substr(colon + 2);
  return "unknown CPU";
}

uint64_t physicalMemoryBytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), pageBytes = sysconf(_SC_PAGESIZE);
  return pages > 0 && pageBytes > 0 ? uint64_t(pages) * uint64_t(pageBytes) : 0;
}

uint64_t lastLevelCacheBytes(const std::string &folder) {
  namespace fs = std::filesystem;
  // By level, then by the CPUs that share it.
  std::map<int, std::map<std::string, uint64_t>> caches;
  std::error_code error;
  for (const fs::directory_entry &cpu : fs::directory_iterator(folder, error)) {
    std::error_code none; // folders that are no CPU's have no caches
    for (const fs::directory_entry &index : fs::directory_iterator(cpu.path() / "cache", none)) {
      const fs::path path = index.path();
      if (const int level = std::atoi(firstLine(path / "level").c_str()); level > 0)
        caches[level][firstLine(path / "shared_cpu_list")] = bytesOf(firstLine(path / "size"));
    }
  }
  uint64_t sum = 0;
  if (!caches.empty())
    for (const auto &[cpus, bytes] : caches.rbegin()->second)
      sum += bytes;
  return sum;
}

} // namespace moeplan
