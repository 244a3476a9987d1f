#include "compiler/quantize/quantizer.h"

using namespace moeplan::compiler;

const QuantizerInfo &moeplan::compiler::defaultQuantizer(uint32_t bits, bool hasImportance,
                                                         bool hasHessian) {
  // At 8 bits no quantiser loses anything that could be measured; the fastest will do.
  if (bits >= 8)
    return *findQuantizer("rtn");
  if (hasHessian)
    return *findQuantizer("descent");
  return *findQuantizer(hasImportance ? "imatrix" : "rtn");
}
