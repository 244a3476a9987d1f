// From the numbers of a checkpoint to those of a weight format.
#pragma once

#include "compiler/import/checkpoint.h"
#include "formats.h"

#include "llvm/ADT/ArrayRef.h"

namespace moeplan::compiler {

/// The values of `elements` numbers of `dtype`, exactly. `in` need not be aligned.
void decodeElements(DType dtype, const uint8_t *in, uint64_t elements, float *out);

/// Converts `elements` numbers of `dtype` to `format`, f32 or bf16; `out` holds elements *
/// format.bits / 8 bytes. To bf16 by rounding to nearest, ties to even (NaN stays NaN); to f32
/// exactly. A tensor may be converted in any number of parts.
void convertElements(DType dtype, const uint8_t *in, uint64_t elements, const FormatInfo &format,
                     uint8_t *out);

} // namespace moeplan::compiler
