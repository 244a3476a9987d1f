// The programs of a plan, whatever machine runs them.
#pragma once

#include "moeplan_generated.h"

#include <vector>

namespace moeplan {

/// Those for CPUs, then those for a device.
inline std::vector<const fb::Program *> allPrograms(const fb::Plan &plan) {
  std::vector<const fb::Program *> programs(plan.programs()->begin(), plan.programs()->end());
  if (plan.device_programs())
    programs.insert(programs.end(), plan.device_programs()->begin(), plan.device_programs()->end());
  return programs;
}

/// Those that run on a cuda device, or on a CPU.
inline const flatbuffers::Vector<flatbuffers::Offset<fb::Program>> *programsOf(const fb::Plan &plan,
                                                                               bool onCuda) {
  return onCuda ? plan.device_programs() : plan.programs();
}

} // namespace moeplan
