// Linking with lld, in process.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

#include <string>

namespace moeplan::compiler {

/// Links relocatable ELF objects into a stripped shared object without dependencies and returns its
/// bytes. An undefined symbol is an error. Serialised: lld keeps global state.
llvm::Expected<std::string> linkSharedObject(llvm::ArrayRef<std::string> objects);

} // namespace moeplan::compiler
