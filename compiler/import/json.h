// JSON files of a checkpoint.
#pragma once

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <nlohmann/json.hpp>

namespace moeplan::compiler {

/// Bytes. The limit of the reference implementation of safetensors on its header.
inline constexpr uint64_t kMaxJsonBytes = 100'000'000;

/// Parses JSON more strictly than JSON asks for: a key that stands twice in one object is refused,
/// as are deep nesting and texts over kMaxJsonBytes. Errors name `origin` and the position.
llvm::Expected<nlohmann::json> parseJson(llvm::StringRef text, llvm::StringRef origin);

} // namespace moeplan::compiler
