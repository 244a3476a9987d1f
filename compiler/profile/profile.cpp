#include "compiler/profile/profile.h"

#include "compiler/support/toml_reader.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MemoryBuffer.h"

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// "int4g32" -> "int4": what a profile calls all group sizes of a width.
std::string widthName(const FormatInfo &format) {
  return StringRef(format.name).split('g').first.str();
}

class ProfileReader {
public:
  explicit ProfileReader(StringRef origin) : toml(origin) {}

  Expected<Profile> read(StringRef text) {
    auto parsed = toml.parse(text);
    if (!parsed)
      return parsed.takeError();
    const toml::table &root = *parsed;
    Profile profile;
    if (Error error = toml.checkKeys(root, {"name", "host", "device", "transfer"}))
      return error;
    if (Error error = toml.read(root, "name", profile.name))
      return error;
    auto host = toml.readTable(root, "host");
    if (!host)
      return host.takeError();
    if (!*host)
      return toml.fail(root, "a profile needs a table [host]");
    if (Error error = readHost(**host, profile))
      return error;
    auto device = toml.readTable(root, "device");
    if (!device)
      return device.takeError();
    auto transfer = toml.readTable(root, "transfer");
    if (!transfer)
      return transfer.takeError();
    if (bool(*device) != bool(*transfer))
      return toml.fail(*device ? **device : **transfer,
                       "[device] and [transfer] describe a device together: one is missing");
    if (*device) {
      profile.device.emplace();
      if (Error error = readProcessor(**device, "device", {}, *profile.device))
        return error;
      if (Error error = readTransfer(**transfer, profile.transfer))
        return error;
    }
    return profile;
  }

private:
  Error require(const toml::table &table, StringRef key, StringRef where) {
    if (table.get(std::string_view(key)))
      return Error::success();
    return toml.fail(table, "[" + where + "] needs '" + key + "'");
  }

  Error readHost(const toml::table &table, Profile &profile) {
    if (Error error = readProcessor(table, "host", {"threads", "read_bandwidth"}, profile.host))
      return error;
    uint64_t threads = 0;
    if (Error error = toml.readInteger(table, "threads", 1, 65536, threads))
      return error;
    profile.hostThreads = unsigned(threads);
    return toml.forEachTable(table, "read_bandwidth", [&](const toml::table &row) -> Error {
      if (Error error = toml.checkKeys(row, {"threads", "bytes_per_second"}))
        return error;
      uint64_t threads = 0;
      double rate = 0;
      for (StringRef key : {"threads", "bytes_per_second"})
        if (Error error = require(row, key, "[host.read_bandwidth]"))
          return error;
      if (Error error = toml.readInteger(row, "threads", 1, 65536, threads))
        return error;
      if (Error error = toml.readNumber(row, "bytes_per_second", kPositive, rate))
        return error;
      if (!profile.hostReadBytesPerSecond.emplace(unsigned(threads), rate).second)
        return toml.fail(row, "a read_bandwidth for " + Twine(threads) + " threads occurs twice");
      return Error::success();
    });
  }

  Error readProcessor(const toml::table &table, StringRef where, ArrayRef<StringRef> more,
                      Processor &processor) {
    SmallVector<StringRef> known{"name",   "memory_bytes",          "cache_bytes", "context_bytes",
                                 "decode", "read_bytes_per_second", "prefill",     "kernels"};
    append_range(known, more);
    if (Error error = toml.checkKeys(table, known))
      return error;
    for (StringRef key : {"memory_bytes", "read_bytes_per_second", "kernels"})
      if (Error error = require(table, key, where))
        return error;
    if (Error error = toml.read(table, "name", processor.name))
      return error;
    for (auto [key, out] : {std::pair("memory_bytes", &processor.memoryBytes),
                            std::pair("cache_bytes", &processor.cacheBytes),
                            std::pair("context_bytes", &processor.contextBytes)}) {
      std::optional<uint64_t> bytes;
      if (Error error = toml.readBytes(table, key, bytes))
        return error;
      *out = bytes.value_or(0);
    }
    if (Error error = toml.readNumber(table, "read_bytes_per_second", kPositive,
                                      processor.readBytesPerSecond))
      return error;
    processor.kvBytesPerSecond = processor.readBytesPerSecond;
    if (Error error = readOverheads(table, processor))
      return error;
    return readKernels(table, where, processor);
  }

  Error readOverheads(const toml::table &table, Processor &processor) {
    auto decode = toml.readTable(table, "decode");
    if (!decode)
      return decode.takeError();
    if (*decode) {
      if (Error error =
              toml.checkKeys(**decode, {"token_seconds", "layer_seconds", "kv_bytes_per_second"}))
        return error;
      if (Error error = toml.readNumber(**decode, "token_seconds", {}, processor.tokenSeconds))
        return error;
      if (Error error = toml.readNumber(**decode, "layer_seconds", {}, processor.layerSeconds))
        return error;
      if (Error error = toml.readNumber(**decode, "kv_bytes_per_second", kPositive,
                                        processor.kvBytesPerSecond))
        return error;
    }
    auto prefill = toml.readTable(table, "prefill");
    if (!prefill)
      return prefill.takeError();
    if (!*prefill)
      return Error::success();
    if (Error error = toml.checkKeys(**prefill, {"layer_seconds"}))
      return error;
    return toml.readNumber(**prefill, "layer_seconds", {}, processor.prefillLayerSeconds);
  }

  Error readKernels(const toml::table &table, StringRef where, Processor &processor) {
    auto kernels = toml.readTable(table, "kernels");
    if (!kernels)
      return kernels.takeError();
    std::vector<std::string> names;
    for (const FormatInfo &format : kFormats)
      for (const std::string &name : {std::string(format.name), widthName(format)})
        if (!is_contained(names, name))
          names.push_back(name);
    const std::vector<StringRef> known(names.begin(), names.end());
    if (Error error = toml.checkKeys(**kernels, known))
      return error;
    if ((*kernels)->empty())
      return toml.fail(**kernels, "[" + where + ".kernels] needs at least one format");
    for (const auto &[key, node] : **kernels) {
      const StringRef name(key.str().data(), key.str().size());
      auto rates = toml.readTable(**kernels, name);
      if (!rates)
        return rates.takeError();
      KernelRate &rate = processor.kernels[name.str()];
      if (Error error =
              toml.checkKeys(**rates, {"decode_bytes_per_second", "decode_cached_bytes_per_second",
                                       "prefill_operations_per_second"}))
        return error;
      const std::string path = (where + ".kernels." + name).str();
      for (StringRef needed : {"decode_bytes_per_second", "prefill_operations_per_second"})
        if (Error error = require(**rates, needed, path))
          return error;
      for (auto [field, out] :
           {std::pair("decode_bytes_per_second", &rate.decodeBytesPerSecond),
            std::pair("decode_cached_bytes_per_second", &rate.decodeCachedBytesPerSecond),
            std::pair("prefill_operations_per_second", &rate.prefillOperationsPerSecond)})
        if (Error error = toml.readNumber(**rates, field, kPositive, *out))
          return error;
    }
    return Error::success();
  }

  Error readTransfer(const toml::table &table, TransferRates &transfer) {
    if (Error error = toml.checkKeys(table, {"pageable_bytes_per_second", "pinned_bytes_per_second",
                                             "in_place_bytes_per_second", "latency_seconds"}))
      return error;
    if (Error error = require(table, "pageable_bytes_per_second", "transfer"))
      return error;
    // Each is as good as the one before unless it says otherwise.
    double rate = 0;
    for (auto [key, out] :
         {std::pair("pageable_bytes_per_second", &transfer.pageableBytesPerSecond),
          std::pair("pinned_bytes_per_second", &transfer.pinnedBytesPerSecond),
          std::pair("in_place_bytes_per_second", &transfer.inPlaceBytesPerSecond)}) {
      if (Error error = toml.readNumber(table, key, kPositive, rate))
        return error;
      *out = rate;
    }
    return toml.readNumber(table, "latency_seconds", {}, transfer.latencySeconds);
  }

  static constexpr TomlReader::Range kPositive{0, 1e300, /*open=*/true};
  TomlReader toml;
};

} // namespace

const KernelRate *Processor::rate(const FormatInfo &format) const {
  auto found = kernels.find(std::string(format.name));
  if (found == kernels.end())
    found = kernels.find(widthName(format));
  return found == kernels.end() ? nullptr : &found->second;
}

Expected<Profile> moeplan::compiler::parseProfile(StringRef text, StringRef origin) {
  return ProfileReader(origin).read(text);
}

Expected<Profile> moeplan::compiler::readProfile(StringRef path) {
  auto text = MemoryBuffer::getFile(path);
  if (!text)
    return createStringError(path + ": " + text.getError().message());
  return parseProfile((*text)->getBuffer(), path);
}
