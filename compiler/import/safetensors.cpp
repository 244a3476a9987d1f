#include "compiler/import/safetensors.h"

#include "compiler/import/json.h"
#include "compiler/import/messages.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/MathExtras.h"

#include <array>
#include <cstring>

using namespace llvm;

namespace moeplan::compiler {

namespace {

/// Bytes of the little-endian header length that a safetensors file begins with.
constexpr uint64_t kLengthBytes = 8;

struct DTypeInfo {
  DType id;
  StringLiteral name;
  uint64_t bytes;
};
constexpr std::array<DTypeInfo, 3> kDTypes{{
    {DType::F32, "F32", 4},
    {DType::F16, "F16", 2},
    {DType::BF16, "BF16", 2},
}};

const DTypeInfo &dtypeInfo(DType dtype) {
  return *find_if(kDTypes, [&](const DTypeInfo &info) { return info.id == dtype; });
}

} // namespace

uint64_t dtypeBytes(DType dtype) { return dtypeInfo(dtype).bytes; }
StringRef dtypeName(DType dtype) { return dtypeInfo(dtype).name; }

//===----------------------------------------------------------------------===//
// Safetensors
//===----------------------------------------------------------------------===//

namespace {

using Json = nlohmann::json;

const Json *findMember(const Json &object, const char *key) {
  auto member = object.find(key);
  return member == object.end() ? nullptr : &*member;
}

/// An array of unsigned integers, or nothing.
template <typename Vector> bool readUnsigned(const Json *value, Vector &result) {
  if (!value || !value->is_array())
    return false;
  for (const Json &item : *value) {
    if (!item.is_number_unsigned())
      return false;
    result.push_back(item.template get<uint64_t>());
  }
  return true;
}

/// Bytes of a tensor, or nothing where the product exceeds 64 bits.
std::optional<uint64_t> tensorBytes(DType dtype, ArrayRef<uint64_t> shape) {
  uint64_t bytes = dtypeBytes(dtype);
  for (uint64_t extent : shape)
    if (__builtin_mul_overflow(bytes, extent, &bytes))
      return std::nullopt;
  return bytes;
}

/// Reads one entry of the header; `dataBytes` follow the header, which ends at `dataStart`.
Expected<TensorInfo> readTensor(const std::string &name, const Json &entry, uint64_t dataStart,
                                uint64_t dataBytes, StringRef origin) {
  auto failure = [&](const Twine &expectedAndFound) {
    return importError(name + ": " + expectedAndFound + " (" + origin + ")");
  };
  if (!entry.is_object())
    return failure("an object with dtype, shape and data_offsets expected, " + describe(&entry));
  TensorInfo tensor;
  tensor.name = name;

  const Json *dtype = findMember(entry, "dtype");
  auto known = find_if(kDTypes, [&](const DTypeInfo &info) {
    return dtype && dtype->is_string() && dtype->get_ref<const std::string &>() == info.name;
  });
  if (known == kDTypes.end())
    return failure("dtype BF16, F16 or F32 expected, " + describe(dtype));
  tensor.dtype = known->id;

  const Json *shape = findMember(entry, "shape");
  if (!readUnsigned(shape, tensor.shape))
    return failure("shape: an array of unsigned integers expected, " + describe(shape));
  const Json *offsets = findMember(entry, "data_offsets");
  SmallVector<uint64_t, 2> range;
  if (!readUnsigned(offsets, range) || range.size() != 2 || range[0] > range[1])
    return failure("data_offsets: [begin, end] with begin <= end expected, " + describe(offsets));
  if (range[1] > dataBytes)
    return failure("data_offsets: an end of at most " + Twine(dataBytes) +
                   ", the bytes of data in the file, expected, " + describe(offsets));
  std::optional<uint64_t> bytes = tensorBytes(tensor.dtype, tensor.shape);
  if (bytes != range[1] - range[0])
    return failure((bytes ? utostr(*bytes) : "over 2^64") + Twine(" bytes expected for ") +
                   dtypeName(tensor.dtype) + " " + formatShape(tensor.shape) + ", file has " +
                   Twine(range[1] - range[0]));
  tensor.offset = dataStart + range[0];
  tensor.bytes = *bytes;
  return tensor;
}

/// Checks that the tensors, sorted by offset, cover [begin, end) of the file exactly.
Error checkCoverage(ArrayRef<TensorInfo> tensors, uint64_t begin, uint64_t end, StringRef origin) {
  uint64_t covered = begin;
  const TensorInfo *previous = nullptr;
  for (const TensorInfo &tensor : tensors) {
    if (tensor.offset != covered) {
      std::string found = tensor.offset < covered ? "overlaps " + previous->name : "leaves a hole";
      return importError(tensor.name + ": data at offset " + Twine(covered - begin) +
                         " expected, file has it at " + Twine(tensor.offset - begin) + ", which " +
                         found + " (" + origin + ")");
    }
    covered += tensor.bytes;
    previous = &tensor;
  }
  if (covered != end)
    return importError(origin + ": " + Twine(covered - begin) +
                       " bytes of data expected by the header, file has " + Twine(end - begin));
  return Error::success();
}

} // namespace

Expected<std::vector<TensorInfo>> parseSafetensorsHeader(ArrayRef<uint8_t> file, StringRef origin) {
  if (file.size() < kLengthBytes)
    return importError(origin + ": a header length of " + Twine(kLengthBytes) +
                       " bytes expected, file has " + Twine(file.size()) + " bytes");
  uint64_t headerBytes = support::endian::read64le(file.data());
  uint64_t limit = std::min<uint64_t>(kMaxJsonBytes, file.size() - kLengthBytes);
  if (headerBytes > limit)
    return importError(origin + ": a header length of at most " + Twine(limit) +
                       " bytes expected, file has " + Twine(headerBytes));
  StringRef text(reinterpret_cast<const char *>(file.data()) + kLengthBytes, headerBytes);
  Expected<Json> header = parseJson(text, origin);
  if (!header)
    return header.takeError();
  if (!header->is_object())
    return importError(origin + ": a header that is a JSON object expected, " + describe(&*header));

  uint64_t dataStart = kLengthBytes + headerBytes;
  std::vector<TensorInfo> tensors;
  for (const auto &[name, entry] : header->items()) {
    if (name == "__metadata__") { // free text of whoever wrote the file
      if (!entry.is_object())
        return importError(origin + ": __metadata__: an object expected, " + describe(&entry));
      continue;
    }
    Expected<TensorInfo> tensor =
        readTensor(name, entry, dataStart, file.size() - dataStart, origin);
    if (!tensor)
      return tensor.takeError();
    tensors.push_back(std::move(*tensor));
  }
  // By size second: an empty tensor stands before the one that begins at the same place.
  llvm::sort(tensors, [](const TensorInfo &a, const TensorInfo &b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  if (Error error = checkCoverage(tensors, dataStart, file.size(), origin))
    return error;
  return tensors;
}

} // namespace moeplan::compiler
