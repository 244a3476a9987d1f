#include "runtime/device/affinity.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <thread>

namespace moeplan {

namespace {

/// The CPUs the calling thread may run on, by core. Empty where the system does not say.
std::vector<std::vector<int>> allowedCores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0)
    return {};
  std::vector<std::vector<int>> cores;
  std::map<std::string, size_t> coreOfSiblings;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask))
      continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (!(file >> siblings))
      siblings = "cpu" + std::to_string(cpu);
    const auto [entry, isNew] = coreOfSiblings.emplace(siblings, cores.size());
    if (isNew)
      cores.emplace_back();
    cores[entry->second].push_back(cpu);
  }
  return cores;
}

/// CPUs that the cgroup's quota is worth; infinity without one.
double cgroupCpus() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0)
    return INFINITY;
  return std::atof(quota.c_str()) / period;
}

Status cannotPin(int cpu, int error) {
  return unsupported("cannot pin a thread to CPU " + std::to_string(cpu) + ": " +
                     std::strerror(error));
}

} // namespace

unsigned availablePhysicalCores() {
  const auto cores = static_cast<double>(allowedCores().size());
  if (cores == 0)
    return std::max(1u, std::thread::hardware_concurrency());
  const double limit = std::max(1.0, std::ceil(cgroupCpus()));
  return static_cast<unsigned>(std::min(cores, limit));
}

std::vector<int> cpusForPinning() {
  const std::vector<std::vector<int>> cores = allowedCores();
  std::vector<int> cpus;
  for (size_t hyperthread = 0;; ++hyperthread) {
    const size_t before = cpus.size();
    for (const std::vector<int> &core : cores)
      if (hyperthread < core.size())
        cpus.push_back(core[hyperthread]);
    if (cpus.size() == before)
      return cpus;
  }
}

Status pinThread(pthread_t thread, int cpu) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(cpu, &mask);
  if (const int error = pthread_setaffinity_np(thread, sizeof(mask), &mask); error != 0)
    return cannotPin(cpu, error);
  return {};
}

ScopedPin::ScopedPin(int cpu) {
  CPU_ZERO(&before_);
  const int error = pthread_getaffinity_np(pthread_self(), sizeof(before_), &before_);
  status_ = error != 0 ? cannotPin(cpu, error) : pinThread(pthread_self(), cpu);
}

ScopedPin::~ScopedPin() {
  if (status_.ok())
    pthread_setaffinity_np(pthread_self(), sizeof(before_), &before_);
}

} // namespace moeplan
