#include "compiler/support/digest.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/Endian.h"

#include <xxhash.h>

namespace moeplan::compiler {

std::string digestOf(llvm::ArrayRef<uint8_t> bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  return llvm::toHex(llvm::ArrayRef<uint8_t>(canonical.digest), /*LowerCase=*/true);
}

ListDigest &ListDigest::add(llvm::StringRef text) {
  add(uint64_t(text.size()));
  bytes_ += text;
  return *this;
}

ListDigest &ListDigest::add(uint64_t value) {
  char bytes[sizeof(value)];
  llvm::support::endian::write64le(bytes, value);
  bytes_.append(bytes, sizeof(bytes));
  return *this;
}

ListDigest &ListDigest::add(double value) { return add(llvm::bit_cast<uint64_t>(value)); }

} // namespace moeplan::compiler
