#include "compiler/quantize/convert.h"

#include "llvm/ADT/bit.h"

#include <cmath>
#include <cstring>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

float fromBf16(uint16_t bits) { return llvm::bit_cast<float>(uint32_t(bits) << 16); }

/// IEEE 754 binary16.
float fromF16(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff;
  if (exponent == 0x1f)
    return llvm::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) {
    const float magnitude = std::ldexp(float(mantissa), -24);
    return sign ? -magnitude : magnitude;
  }
  return llvm::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t toBf16(float value) {
  const uint32_t bits = llvm::bit_cast<uint32_t>(value);
  if (std::isnan(value))
    return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <typename T> T load(const uint8_t *in, uint64_t index) {
  T value;
  std::memcpy(&value, in + index * sizeof(T), sizeof(T));
  return value;
}

float loadElement(DType dtype, const uint8_t *in, uint64_t index) {
  switch (dtype) {
  case DType::F32:
    return load<float>(in, index);
  case DType::F16:
    return fromF16(load<uint16_t>(in, index));
  case DType::BF16:
    return fromBf16(load<uint16_t>(in, index));
  }
  return 0;
}

} // namespace

void moeplan::compiler::decodeElements(DType dtype, const uint8_t *in, uint64_t elements,
                                       float *out) {
  if (dtype == DType::BF16) { // the usual one, in a form that the host compiler vectorises
    for (uint64_t i = 0; i < elements; ++i)
      out[i] = fromBf16(load<uint16_t>(in, i));
    return;
  }
  for (uint64_t i = 0; i < elements; ++i)
    out[i] = loadElement(dtype, in, i);
}

void moeplan::compiler::convertElements(DType dtype, const uint8_t *in, uint64_t elements,
                                        const FormatInfo &format, uint8_t *out) {
  const bool same = (dtype == DType::BF16 && format.id == MOEPLAN_FORMAT_BF16) ||
                    (dtype == DType::F32 && format.id == MOEPLAN_FORMAT_F32);
  if (same) {
    std::memcpy(out, in, elements * dtypeBytes(dtype));
    return;
  }
  for (uint64_t i = 0; i < elements; ++i) {
    const float value = loadElement(dtype, in, i);
    if (format.id == MOEPLAN_FORMAT_F32) {
      std::memcpy(out + i * sizeof(float), &value, sizeof(float));
    } else {
      const uint16_t bits = toBf16(value);
      std::memcpy(out + i * sizeof(bits), &bits, sizeof(bits));
    }
  }
}
