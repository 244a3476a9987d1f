// Digests: XXH3-128, in lower-case hex.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

#include <cstdint>
#include <string>

namespace moeplan::compiler {

std::string digestOf(llvm::ArrayRef<uint8_t> bytes);
inline std::string digestOf(llvm::StringRef text) {
  return digestOf(llvm::ArrayRef(reinterpret_cast<const uint8_t *>(text.data()), text.size()));
}

/// A digest over values, of which no two different sequences give the same bytes.
class ListDigest {
public:
  ListDigest &add(llvm::StringRef text);
  ListDigest &add(const char *text) { return add(llvm::StringRef(text)); }
  ListDigest &add(uint64_t value);
  ListDigest &add(double value);
  std::string hex() const { return digestOf(llvm::StringRef(bytes_)); }

private:
  std::string bytes_; ///< values, texts with their lengths before them
};

} // namespace moeplan::compiler
