// The header of a safetensors file.
#pragma once

#include "compiler/import/checkpoint.h"

namespace moeplan::compiler {

/// Reads the header of a safetensors file and checks it against `file`, the whole file: every
/// tensor has a supported dtype and exactly the bytes that its shape asks for, and the tensors
/// cover the data without overlap, hole or rest. Returns them in the order of their data, with
/// `file` index 0. Format: https://github.com/huggingface/safetensors#format
llvm::Expected<std::vector<TensorInfo>> parseSafetensorsHeader(llvm::ArrayRef<uint8_t> file,
                                                               llvm::StringRef origin);

} // namespace moeplan::compiler
