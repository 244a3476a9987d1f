// The one thing the FlatBuffers verifier does not check.
#pragma once

#include <cstdint>
#include <flatbuffers/flatbuffers.h>

namespace moeplan {

/// Whether a vector of structs lies where its elements may: a forged offset can put it anywhere.
template <typename T> bool isAligned(const flatbuffers::Vector<const T *> &structs) {
  return structs.size() == 0 || reinterpret_cast<uintptr_t>(structs.Data()) % alignof(T) == 0;
}

} // namespace moeplan
