#include "compiler/import/digest.h"

#include "llvm/ADT/StringExtras.h"

#include <xxhash.h>

std::string moeplan::compiler::digestOf(llvm::ArrayRef<uint8_t> bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  return llvm::toHex(llvm::ArrayRef<uint8_t>(canonical.digest), /*LowerCase=*/true);
}
