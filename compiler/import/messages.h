// How errors about a checkpoint's files are worded.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/Error.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>

namespace moeplan::compiler {

/// An error of one line. Control characters and broken UTF-8, which names in a file may contain,
/// are made visible, so that a file cannot forge lines of a log.
llvm::Error importError(const llvm::Twine &message);

/// What was found, as messages end: `file has "gelu"`, or `missing` where `value` is null.
std::string describe(const nlohmann::json *value);
/// "[2, 3]"
std::string formatShape(llvm::ArrayRef<uint64_t> shape);

} // namespace moeplan::compiler
