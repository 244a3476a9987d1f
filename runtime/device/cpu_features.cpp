#include "runtime/device/cpu_features.h"

#include <algorithm>
#include <array>
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace moeplan {

#if defined(__x86_64__)

namespace {

enum Register : uint8_t { EAX, EBX, ECX, EDX };

/// State that the operating system must save for the extension's registers (bits of XCR0).
enum State : uint32_t { kNone = 0, kAvx = 0x6, kAvx512 = 0xe6, kAmx = 0x60000 };

/// Where CPUID tells of an extension (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E).
struct Feature {
  std::string_view name;
  uint32_t leaf, subleaf;
  Register reg;
  uint8_t bit;
  State state = kNone;
};

constexpr Feature kFeatures[] = {
    {"x87", 1, 0, EDX, 0},
    {"cx8", 1, 0, EDX, 8},
    {"cmov", 1, 0, EDX, 15},
    {"mmx", 1, 0, EDX, 23},
    {"fxsr", 1, 0, EDX, 24},
    {"sse", 1, 0, EDX, 25},
    {"sse2", 1, 0, EDX, 26},
    {"sse3", 1, 0, ECX, 0},
    {"pclmul", 1, 0, ECX, 1},
    {"ssse3", 1, 0, ECX, 9},
    {"fma", 1, 0, ECX, 12, kAvx},
    {"cx16", 1, 0, ECX, 13},
    {"sse4.1", 1, 0, ECX, 19},
    {"sse4.2", 1, 0, ECX, 20},
    {"crc32", 1, 0, ECX, 20},
    {"movbe", 1, 0, ECX, 22},
    {"popcnt", 1, 0, ECX, 23},
    {"aes", 1, 0, ECX, 25},
    {"xsave", 1, 0, ECX, 26},
    {"avx", 1, 0, ECX, 28, kAvx},
    {"f16c", 1, 0, ECX, 29, kAvx},
    {"rdrnd", 1, 0, ECX, 30},
    {"fsgsbase", 7, 0, EBX, 0},
    {"bmi", 7, 0, EBX, 3},
    {"avx2", 7, 0, EBX, 5, kAvx},
    {"bmi2", 7, 0, EBX, 8},
    {"avx512f", 7, 0, EBX, 16, kAvx512},
    {"evex512", 7, 0, EBX, 16, kAvx512},
    {"avx512dq", 7, 0, EBX, 17, kAvx512},
    {"rdseed", 7, 0, EBX, 18},
    {"adx", 7, 0, EBX, 19},
    {"avx512ifma", 7, 0, EBX, 21, kAvx512},
    {"avx512cd", 7, 0, EBX, 28, kAvx512},
    {"sha", 7, 0, EBX, 29},
    {"avx512bw", 7, 0, EBX, 30, kAvx512},
    {"avx512vl", 7, 0, EBX, 31, kAvx512},
    {"avx512vbmi", 7, 0, ECX, 1, kAvx512},
    {"avx512vbmi2", 7, 0, ECX, 6, kAvx512},
    {"gfni", 7, 0, ECX, 8},
    {"vaes", 7, 0, ECX, 9, kAvx},
    {"vpclmulqdq", 7, 0, ECX, 10, kAvx},
    {"avx512vnni", 7, 0, ECX, 11, kAvx512},
    {"avx512bitalg", 7, 0, ECX, 12, kAvx512},
    {"avx512vpopcntdq", 7, 0, ECX, 14, kAvx512},
    {"rdpid", 7, 0, ECX, 22},
    {"avx512vp2intersect", 7, 0, EDX, 8, kAvx512},
    {"amx-bf16", 7, 0, EDX, 22, kAmx},
    {"avx512fp16", 7, 0, EDX, 23, kAvx512},
    {"amx-tile", 7, 0, EDX, 24, kAmx},
    {"amx-int8", 7, 0, EDX, 25, kAmx},
    {"sha512", 7, 1, EAX, 0, kAvx},
    {"sm3", 7, 1, EAX, 1, kAvx},
    {"sm4", 7, 1, EAX, 2, kAvx},
    {"avxvnni", 7, 1, EAX, 4, kAvx},
    {"avx512bf16", 7, 1, EAX, 5, kAvx512},
    {"amx-fp16", 7, 1, EAX, 21, kAmx},
    {"avxifma", 7, 1, EAX, 23, kAvx},
    {"avxvnniint8", 7, 1, EDX, 4, kAvx},
    {"avxneconvert", 7, 1, EDX, 5, kAvx},
    {"avxvnniint16", 7, 1, EDX, 10, kAvx},
    {"sahf", 0x80000001, 0, ECX, 0},
    {"lzcnt", 0x80000001, 0, ECX, 5},
    {"sse4a", 0x80000001, 0, ECX, 6},
    {"prfchw", 0x80000001, 0, ECX, 8},
    {"xop", 0x80000001, 0, ECX, 11, kAvx},
    {"fma4", 0x80000001, 0, ECX, 16, kAvx},
    {"tbm", 0x80000001, 0, ECX, 21},
    {"64bit", 0x80000001, 0, EDX, 29},
};

/// State components that the operating system saves; 0 where it does not use XSAVE.
uint64_t enabledState() {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr uint32_t kOsxsave = 1u << 27;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & kOsxsave))
    return 0;
  __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return uint64_t(edx) << 32 | eax;
}

bool detect(const Feature &feature) {
  std::array<uint32_t, 4> registers{};
  if (!__get_cpuid_count(feature.leaf, feature.subleaf, &registers[EAX], &registers[EBX],
                         &registers[ECX], &registers[EDX]))
    return false;
  return (registers[feature.reg] >> feature.bit & 1) &&
         (enabledState() & feature.state) == feature.state;
}

const Feature *find(std::string_view name) {
  const auto *it = std::find_if(std::begin(kFeatures), std::end(kFeatures),
                                [&](const Feature &feature) { return feature.name == name; });
  return it == std::end(kFeatures) ? nullptr : it;
}

} // namespace

bool isKnownCpuFeature(std::string_view name) { return find(name) != nullptr; }

bool hasCpuFeature(std::string_view name) {
  const Feature *feature = find(name);
  return feature && detect(*feature);
}

#else

// Other architectures: only code for the baseline, which requires no extension.
bool isKnownCpuFeature(std::string_view) { return false; }
bool hasCpuFeature(std::string_view) { return false; }

#endif

std::vector<std::string> missingCpuFeatures(const std::vector<std::string> &required) {
  std::vector<std::string> missing;
  std::copy_if(required.begin(), required.end(), std::back_inserter(missing),
               [](const std::string &name) { return !hasCpuFeature(name); });
  return missing;
}

} // namespace moeplan
