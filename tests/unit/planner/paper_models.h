// Machines and models for the planner's tests.
#pragma once

#include "compiler/planner/cost_model.h"

namespace moeplan::compiler {

/// examples/configs/mixtral-8x7b.json and 8x22b, what of it costs anything.
inline MixtralConfig mixtral8x7b() {
  MixtralConfig config;
  config.vocabSize = 32000;
  config.hiddenSize = 4096;
  config.intermediateSize = 14336;
  config.numLayers = 32;
  config.numAttentionHeads = 32;
  config.numKeyValueHeads = 8;
  config.headDim = 128;
  config.numExperts = 8;
  config.numExpertsPerToken = 2;
  return config;
}

inline MixtralConfig mixtral8x22b() {
  MixtralConfig config = mixtral8x7b();
  config.vocabSize = 32768;
  config.hiddenSize = 6144;
  config.intermediateSize = 16384;
  config.numLayers = 56;
  config.numAttentionHeads = 48;
  return config;
}

/// A machine with round figures: 1 TB/s on the device, 100 GB/s on the host, 10 GB/s between them.
inline Profile roundProfile() {
  Profile profile;
  profile.name = "round";
  profile.host.memoryBytes = uint64_t(256) << 30;
  profile.host.readBytesPerSecond = 1e11;
  profile.host.kvBytesPerSecond = 1e11;
  Processor device;
  device.memoryBytes = uint64_t(80) << 30;
  device.contextBytes = uint64_t(512) << 20;
  device.readBytesPerSecond = 1e12;
  device.kvBytesPerSecond = 1e12;
  for (const char *width : {"bf16", "int8", "int4", "int3", "int2"}) {
    profile.host.kernels[width] = {1e11, 0, 1e12};
    device.kernels[width] = {1e12, 0, 1e14};
  }
  profile.device = device;
  profile.transfer = {5e9, 1e10, 1e10, 1e-5};
  return profile;
}

} // namespace moeplan::compiler
