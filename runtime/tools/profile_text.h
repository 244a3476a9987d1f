// A profile as the TOML text that compiler/profile/profile.cpp reads.
#pragma once

#include "runtime/tools/profile_fit.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace moeplan::tools {

struct DeviceProfile {
  std::string name;
  uint64_t memoryBytes = 0, contextBytes = 0;
  double readBytesPerSecond = 0;
  double pageableBytesPerSecond = 0, pinnedBytesPerSecond = 0, latencySeconds = 0;
};

struct MachineProfile {
  std::string name;
  std::string hostName;
  uint64_t memoryBytes = 0, cacheBytes = 0;
  uint32_t threads = 0;
  std::map<uint32_t, double> readBytesPerSecond; ///< by threads; has an entry for `threads`
  Fit fit;
  std::optional<DeviceProfile> device;
};

std::string profileText(const MachineProfile &profile);

} // namespace moeplan::tools
