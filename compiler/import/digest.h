// The digest of files: XXH3-128.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

#include <string>

namespace moeplan::compiler {

/// XXH3-128 in lower-case hex.
std::string digestOf(llvm::ArrayRef<uint8_t> bytes);
inline std::string digestOf(llvm::StringRef text) {
  return digestOf(llvm::ArrayRef(reinterpret_cast<const uint8_t *>(text.data()), text.size()));
}

} // namespace moeplan::compiler
