#include "runtime/tools/profile_text.h"

#include "runtime/support/units.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace moeplan::tools {
namespace {

/// A basic string of TOML.
std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  }
  return out + "\"";
}

/// "3.37e10": three digits are more than a measurement has.
std::string number(double value) {
  char text[32];
  if (value == 0)
    return "0.0";
  std::snprintf(text, sizeof(text), "%.2e", value);
  std::string out = text;
  const size_t exponent = out.find('e');
  const bool negative = out[exponent + 1] == '-';
  const size_t digits = out.find_first_not_of('0', exponent + 2);
  return out.substr(0, exponent + 1) + (negative ? "-" : "") +
         (digits == std::string::npos ? "0" : out.substr(digits));
}

/// "key = value", with a comment that starts in the same column on all lines.
std::string line(const std::string &key, const std::string &value,
                 const std::string &comment = {}) {
  constexpr size_t commentColumn = 46;
  std::string text = key + " = " + value;
  if (!comment.empty()) {
    text.resize(std::max(text.size() + 1, commentColumn), ' ');
    text += "# " + comment;
  }
  return text + "\n";
}

std::string bytesLine(const std::string &key, uint64_t bytes, const std::string &comment = {}) {
  return line(key, std::to_string(bytes),
              formatBytes(static_cast<double>(bytes)) + (comment.empty() ? "" : "; " + comment));
}

// The order of the file, from the most bits to the fewest.
constexpr std::array<const char *, 5> widths = {"bf16", "int8", "int4", "int3", "int2"};

std::string kernelsText(const Fit &fit) {
  std::string text;
  for (const char *width : widths) {
    const auto found = fit.kernels.find(width);
    if (found == fit.kernels.end() || found->second.prefillOperationsPerSecond == 0)
      continue;
    const KernelFit &kernel = found->second;
    text += "[host.kernels." + std::string(width) + "]\n";
    text += line("decode_bytes_per_second", number(kernel.decodeBytesPerSecond));
    if (kernel.decodeCachedBytesPerSecond > 0)
      text += line("decode_cached_bytes_per_second", number(kernel.decodeCachedBytesPerSecond));
    text += line("prefill_operations_per_second", number(kernel.prefillOperationsPerSecond));
  }
  return text;
}

std::string hostText(const MachineProfile &profile) {
  const Fit &fit = profile.fit;
  std::string text = "[host]\n" + line("name", quoted(profile.hostName)) +
                     bytesLine("memory_bytes", profile.memoryBytes);
  if (profile.cacheBytes > 0)
    text += bytesLine("cache_bytes", profile.cacheBytes, "all caches of the last level");
  text += line("threads", std::to_string(profile.threads), "that all rates below are for") +
          line("read_bytes_per_second", number(profile.readBytesPerSecond.at(profile.threads)),
               "of memory, with these threads") +
          "\n";
  for (const auto &[threads, rate] : profile.readBytesPerSecond)
    text += "[[host.read_bandwidth]]\n" + line("threads", std::to_string(threads)) +
            line("bytes_per_second", number(rate));
  text +=
      "\n# A decode step takes token_seconds + layers * layer_seconds + keys and values /\n"
      "# kv_bytes_per_second + what the kernels below take for the weights.\n"
      "[host.decode]\n" +
      line("token_seconds", number(fit.tokenSeconds)) +
      line("layer_seconds", number(fit.layerSeconds), "norms, router, barriers: all but reading");
  if (fit.kvBytesPerSecond > 0)
    text += line("kv_bytes_per_second", number(fit.kvBytesPerSecond),
                 "keys and values that attention reads");
  text += "\n[host.prefill]\n" + line("layer_seconds", number(fit.prefillLayerSeconds),
                                      "of a layer, for each prompt token");
  return text +
         "\n# Bytes of weights per second: from memory, and from the last-level cache.\n"
         "# Operations: a multiplication and an addition are two.\n" +
         kernelsText(fit);
}

std::string deviceText(const MachineProfile &profile) {
  const DeviceProfile &device = *profile.device;
  std::string text =
      "\n[device]\n" + line("name", quoted(device.name)) +
      bytesLine("memory_bytes", device.memoryBytes) +
      bytesLine("context_bytes", device.contextBytes, "taken before anything is loaded") +
      line("read_bytes_per_second", number(device.readBytesPerSecond),
           "bytes read and written by a copy") +
      "\n# Not measured, for want of kernels: weights at the rate of memory, prefill\n"
      "# bound by it too, with two operations for each byte.\n";
  for (const char *width : widths)
    text += "[device.kernels." + std::string(width) + "]\n" +
            line("decode_bytes_per_second", number(device.readBytesPerSecond), "not measured") +
            line("prefill_operations_per_second", number(2 * device.readBytesPerSecond),
                 "not measured");
  return text + "\n[transfer]\n" +
         line("pageable_bytes_per_second", number(device.pageableBytesPerSecond)) +
         line("pinned_bytes_per_second", number(device.pinnedBytesPerSecond)) +
         line("in_place_bytes_per_second", number(device.pinnedBytesPerSecond),
              "not measured: as pinned") +
         line("latency_seconds", number(device.latencySeconds), "of a small copy");
}

} // namespace

std::string profileText(const MachineProfile &profile) {
  return "# What this machine can do, measured by `moeplan profile` and to be edited by hand.\n"
         "# Times are the best of several: other work on the machine only ever adds to them.\n" +
         line("name", quoted(profile.name)) + "\n" + hostText(profile) +
         (profile.device ? deviceText(profile) : "");
}

} // namespace moeplan::tools
