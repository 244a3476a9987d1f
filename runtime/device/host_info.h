// What the system says about this machine.
#pragma once

#include <cstdint>
#include <string>

namespace moeplan {

/// The processor's name as the system has it; "unknown CPU" where it has none.
std::string cpuName();

/// Of the machine, whoever uses it; 0 where the system does not say.
uint64_t physicalMemoryBytes();

/// All caches of the last level together. `folder` is sysfs's of the CPUs. 0: it does not say.
uint64_t lastLevelCacheBytes(const std::string &folder = "/sys/devices/system/cpu");

} // namespace moeplan
