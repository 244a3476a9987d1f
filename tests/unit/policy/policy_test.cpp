#include "compiler/policy/policy.h"
#include "compiler/support/toml_reader.h"

#include "llvm/Support/Error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace moeplan::compiler {
namespace {

constexpr const char *kFull = R"(profile = "../profiles/machine.toml"
context = 8192
batch = 4
device_memory = "24 GiB"
host_memory = 64_000_000_000

[targets]
cpu = ["x86-64-v3", "x86-64-v4"]
cuda = ["sm_80", "sm_90a"]

[canary]
text = "held-out.txt"
tokens = 512
every_tokens = 10000
max_perplexity_increase = "2 %"
max_divergence = 0.05

[switch]
bandwidth_share = 0.25
hysteresis = 0.1
min_seconds = 30

[[tier]]
name = "quality"
non_expert_format = "int8"
prefer = "quality"
max_perplexity_increase = 0.01
min_tokens_per_second = 20
bits_per_weight = 5.5
formats = ["int8", "int4g64"]
pin = [
  { experts = "layers.0.*", format = "int8g32", residency = "device" },
  { experts = "*.w2", format = "int4" },
  { experts = "layers.31.*", residency = "host" },
]

[[tier]]
name = "fast"
prefer = "throughput"
device_memory = "12.5 GB"
host_memory = "32 GiB"
)";

Policy policyOf(llvm::StringRef text, llvm::StringRef origin = "p.toml") {
  auto policy = parsePolicy(text, origin);
  if (!policy) {
    ADD_FAILURE() << llvm::toString(policy.takeError());
    return defaultPolicy();
  }
  return std::move(*policy);
}

std::string errorOf(llvm::StringRef text) {
  auto policy = parsePolicy(text, "p.toml");
  return policy ? "" : llvm::toString(policy.takeError());
}

/// Of `line` in a tier that is valid otherwise; it is line 3 of the text.
std::string errorInTier(llvm::StringRef line) {
  return errorOf("[[tier]]\nname = \"t\"\n" + line.str() + "\n");
}

TEST(PolicyTest, ReadsAllKeysOfThePolicy) {
  const Policy policy = policyOf(kFull, "/etc/moeplan/policies/p.toml");
  EXPECT_EQ(policy.profile, "/etc/moeplan/policies/../profiles/machine.toml");
  EXPECT_EQ(policy.context, 8192u);
  EXPECT_EQ(policy.batch, 4u);
  EXPECT_EQ(policy.cpuTargets, (std::vector<std::string>{"x86-64-v3", "x86-64-v4"}));
  EXPECT_EQ(policy.cudaTargets, (std::vector<std::string>{"sm_80", "sm_90a"}));
  ASSERT_TRUE(policy.canary);
  EXPECT_EQ(policy.canary->tokens, 512u);
  EXPECT_EQ(policy.canary->text, "/etc/moeplan/policies/held-out.txt");
  EXPECT_EQ(policy.canary->everyTokens, 10000u);
  EXPECT_EQ(policy.canary->maxPerplexityIncrease, 0.02);
  EXPECT_EQ(policy.canary->maxDivergence, 0.05);
  ASSERT_TRUE(policy.switching);
  EXPECT_EQ(policy.switching->bandwidthShare, 0.25);
  EXPECT_EQ(policy.switching->hysteresis, 0.1);
  EXPECT_EQ(policy.switching->minSeconds, 30);
  EXPECT_EQ(policy.tiers.size(), 2u);
}

TEST(PolicyTest, ReadsAllKeysOfATier) {
  const Policy policy = policyOf(kFull);
  ASSERT_EQ(policy.tiers.size(), 2u);
  const Tier &tier = policy.tiers[0];
  EXPECT_EQ(tier.name, "quality");
  EXPECT_EQ(tier.nonExpertFormat, "int8g64");
  EXPECT_EQ(tier.prefer, Preference::Quality);
  EXPECT_EQ(tier.limits.maxPerplexityIncrease, 0.01);
  EXPECT_EQ(tier.limits.minTokensPerSecond, 20);
  EXPECT_EQ(tier.limits.bitsPerWeight, 5.5);
  EXPECT_EQ(tier.formats, (std::vector<std::string>{"int8g64", "int4g64"}));
  ASSERT_EQ(tier.pins.size(), 3u);
  EXPECT_EQ(tier.pins[0].experts, "layers.0.*");
  EXPECT_EQ(tier.pins[0].format, "int8g32");
  EXPECT_EQ(tier.pins[0].residency, "device");
  EXPECT_EQ(tier.pins[1].format, "int4g32");
  EXPECT_EQ(tier.pins[1].residency, "");
  EXPECT_EQ(tier.pins[2].format, "");
  EXPECT_EQ(tier.pins[2].residency, "host");
  EXPECT_EQ(policy.tiers[1].prefer, Preference::Throughput);
}

TEST(PolicyTest, TiersInheritThePolicysMemories) {
  const Policy policy = policyOf(kFull);
  ASSERT_EQ(policy.tiers.size(), 2u);
  EXPECT_EQ(policy.tiers[0].limits.deviceMemory, uint64_t(24) << 30);
  EXPECT_EQ(policy.tiers[0].limits.hostMemory, 64000000000u);
  EXPECT_EQ(policy.tiers[1].limits.deviceMemory, 12500000000u);
  EXPECT_EQ(policy.tiers[1].limits.hostMemory, uint64_t(32) << 30);
}

TEST(PolicyTest, AbsentKeysHaveTheDocumentedDefaults) {
  const Policy policy = policyOf("[[tier]]\nname = \"t\"\n[[tier]]\nname = \"u\"\n");
  EXPECT_EQ(policy.profile, "");
  EXPECT_EQ(policy.context, 4096u);
  EXPECT_EQ(policy.batch, 1u);
  EXPECT_FALSE(policy.canary);
  EXPECT_FALSE(policy.switching);
  EXPECT_TRUE(policy.cpuTargets.empty());
  EXPECT_TRUE(policy.cudaTargets.empty());
  EXPECT_FALSE(policy.tiers[0].prefer);
  EXPECT_FALSE(policy.tiers[0].limits.deviceMemory);
  EXPECT_FALSE(policy.tiers[0].planned);

  const Policy empty = policyOf("canary = {}\nswitch = {}\n[[tier]]\nname = \"t\"\n");
  ASSERT_TRUE(empty.canary && empty.switching);
  EXPECT_EQ(empty.canary->tokens, 256u);
  EXPECT_EQ(empty.canary->everyTokens, 0u);
  EXPECT_FALSE(empty.canary->maxPerplexityIncrease);
  EXPECT_FALSE(empty.canary->maxDivergence);
  EXPECT_EQ(empty.switching->bandwidthShare, 0.5);
  EXPECT_EQ(empty.switching->hysteresis, 0.05);
  EXPECT_EQ(empty.switching->minSeconds, 10);
}

TEST(PolicyTest, ATierIsPlannedWhereItHasAnAimALimitOrFormats) {
  for (const char *line :
       {"prefer = \"quality\"", "max_perplexity_increase = 0", "min_tokens_per_second = 5",
        "device_memory = \"8 GiB\"", "host_memory = \"8 GiB\"", "bits_per_weight = 4",
        "formats = [\"int4\"]"})
    EXPECT_TRUE(policyOf(std::string("[[tier]]\nname = \"t\"\n") + line).tiers[0].planned) << line;
  for (const char *line :
       {"", "non_expert_format = \"int8\"", "pin = [{ experts = \"*\", format = \"int4\" }]"})
    EXPECT_FALSE(policyOf(std::string("[[tier]]\nname = \"t\"\n") + line).tiers[0].planned) << line;
  EXPECT_TRUE(policyOf("device_memory = \"8 GiB\"\n[[tier]]\nname = \"t\"").tiers[0].planned);
}

TEST(PolicyTest, ATierMaySayWhatIsDoneAboutMisses) {
  const std::string tier = "[[tier]]\nname = \"t\"\n";
  EXPECT_EQ(policyOf(tier).tiers[0].misses, "");
  EXPECT_EQ(policyOf(tier + "misses = \"in_place\"").tiers[0].misses, "in_place");
  const Policy cached = policyOf(tier + "misses = \"cached\"\ncache_slots = 3");
  EXPECT_EQ(cached.tiers[0].cacheSlots, 3u);
  EXPECT_FALSE(cached.tiers[0].planned);
  EXPECT_EQ(errorOf(tier + "misses = \"lru\""),
            "p.toml:3:10: unknown strategy 'lru' (known: 'stream', 'in_place', 'host_compute', "
            "'cached')");
  EXPECT_EQ(errorOf(tier + "cache_slots = 3"),
            "p.toml:3:15: cache_slots is for misses = \"cached\"");
}

TEST(PolicyTest, TakesTheProfilesPathFromThePolicysFolder) {
  const char *relative = "profile = \"m.toml\"\n[[tier]]\nname = \"t\"";
  EXPECT_EQ(policyOf(relative, "p.toml").profile, "m.toml");
  EXPECT_EQ(policyOf(relative, "a/b/p.toml").profile, "a/b/m.toml");
  EXPECT_EQ(policyOf("profile = \"/m.toml\"\n[[tier]]\nname = \"t\"", "a/p.toml").profile,
            "/m.toml");
}

TEST(PolicyTest, RefusesUnknownKeysAtEveryLevelWithTheNearest) {
  EXPECT_EQ(errorOf("tiers = []"), "p.toml:1:1: unknown key 'tiers' (nearest known: 'tier')");
  EXPECT_EQ(errorOf("# two\nprofil = \"m\""),
            "p.toml:2:1: unknown key 'profil' (nearest known: 'profile')");
  EXPECT_EQ(errorOf("[targets]\n  gpu = []"),
            "p.toml:2:3: unknown key 'gpu' (nearest known: 'cpu')");
  EXPECT_EQ(errorOf("[canary]\ntoken = 1"),
            "p.toml:2:1: unknown key 'token' (nearest known: 'tokens')");
  EXPECT_EQ(errorOf("[switch]\nmin_second = 1"),
            "p.toml:2:1: unknown key 'min_second' (nearest known: 'min_seconds')");
  EXPECT_EQ(errorInTier("preference = \"quality\""),
            "p.toml:3:1: unknown key 'preference' (nearest known: 'prefer')");
  EXPECT_EQ(errorInTier("min_tokens_per_seconds = 5"),
            "p.toml:3:1: unknown key 'min_tokens_per_seconds' (nearest known: "
            "'min_tokens_per_second')");
  EXPECT_EQ(errorInTier("pin = [{ expert = \"*\" }]"),
            "p.toml:3:10: unknown key 'expert' (nearest known: 'experts')");
}

TEST(PolicyTest, RefusesValuesOfTheWrongKind) {
  EXPECT_EQ(errorOf("targets = 5"), "p.toml:1:11: 'targets' must be a table");
  EXPECT_EQ(errorOf("canary = true"), "p.toml:1:10: 'canary' must be a table");
  EXPECT_EQ(errorOf("[[switch]]"), "p.toml:1:1: 'switch' must be a table");
  EXPECT_EQ(errorOf("tier = \"t\""), "p.toml:1:8: 'tier' must be a list");
  EXPECT_EQ(errorOf("tier = [ 5 ]"), "p.toml:1:10: a tier must be a table");
  EXPECT_EQ(errorOf("profile = 5"), "p.toml:1:11: 'profile' must be a string that is not empty");
  EXPECT_EQ(errorOf("profile = \"\""), "p.toml:1:11: 'profile' must be a string that is not empty");
  EXPECT_EQ(errorOf("[targets]\ncpu = \"host\""), "p.toml:2:7: 'cpu' must be a list");
  EXPECT_EQ(errorOf("[targets]\ncpu = [\"host\", 3]"),
            "p.toml:2:16: 'cpu' must be a list of strings");
  EXPECT_EQ(errorOf("[targets]\ncuda = [\"\"]"), "p.toml:2:9: 'cuda' must be a list of strings");
  EXPECT_EQ(errorInTier("prefer = 1"), "p.toml:3:10: 'prefer' must be a string that is not empty");
  EXPECT_EQ(errorInTier("formats = \"int4\""), "p.toml:3:11: 'formats' must be a list");
  EXPECT_EQ(errorInTier("pin = {}"), "p.toml:3:7: 'pin' must be a list");
  EXPECT_EQ(errorInTier("pin = [\"*\"]"), "p.toml:3:8: a pin must be a table");
}

TEST(PolicyTest, RefusesWhatIsNotTomlWithItsPosition) {
  EXPECT_EQ(errorOf("[[tier]]\nname = ").substr(0, 9), "p.toml:2:");
  EXPECT_EQ(errorOf("a = 1\na = 2").substr(0, 9), "p.toml:2:");
  EXPECT_EQ(errorOf(llvm::StringRef("a = \"\0\"", 7)).substr(0, 9), "p.toml:1:");
  EXPECT_EQ(errorOf("a = \"\xff\"").substr(0, 9), "p.toml:1:");
}

TEST(PolicyTest, RefusesAPolicyWithoutATier) {
  for (const char *text : {"", "\n", "batch = 1", "tier = []"})
    EXPECT_EQ(errorOf(text), "p.toml:1:1: a policy needs at least one [[tier]]") << text;
}

TEST(PolicyTest, RefusesNamesThatWouldNotDo) {
  EXPECT_EQ(errorOf("[[tier]]"), "p.toml:1:1: a tier needs a name");
  EXPECT_EQ(errorOf("[[tier]]\nname = \"a b\""),
            "p.toml:1:1: tier name 'a b' may have letters, digits, '_', '-', '.'");
  EXPECT_EQ(errorOf("[[tier]]\nname = \"forward\""), "p.toml:1:1: tier name 'forward' is reserved");
  EXPECT_EQ(errorInTier("[[tier]]\nname = \"t\""), "p.toml:3:1: tier 't' occurs twice");
}

TEST(PolicyTest, RefusesNumbersOutOfRange) {
  const std::string context = "p.toml:1:11: 'context' must be a whole number from 1 to 1073741824";
  for (const char *value : {"0", "-1", "4096.0", "\"4096\"", "1073741825", "true"})
    EXPECT_EQ(errorOf(std::string("context = ") + value), context) << value;
  EXPECT_EQ(errorOf("batch = 65537"), "p.toml:1:9: 'batch' must be a whole number from 1 to 65536");
  EXPECT_EQ(errorOf("canary.tokens = 0"),
            "p.toml:1:17: 'tokens' must be a whole number from 1 to 1048576");
  EXPECT_EQ(errorOf("canary.every_tokens = -1"),
            "p.toml:1:23: 'every_tokens' must be a whole number from 0 to 1099511627776");
  for (const char *value : {"0", "-1", "nan", "inf", "\"1\""})
    EXPECT_EQ(errorOf(std::string("canary.max_divergence = ") + value),
              "p.toml:1:25: 'max_divergence' must be a number greater than 0")
        << value;
  for (const char *value : {"0", "1.01", "-0.5"})
    EXPECT_EQ(errorOf(std::string("switch.bandwidth_share = ") + value),
              "p.toml:1:26: 'bandwidth_share' must be a number greater than 0 and at most 1")
        << value;
  EXPECT_EQ(errorOf("switch.hysteresis = 1"),
            "p.toml:1:21: 'hysteresis' must be a number of at least 0 and at most 0.99");
  EXPECT_EQ(errorOf("switch.min_seconds = -1"),
            "p.toml:1:22: 'min_seconds' must be a number of at least 0");
  EXPECT_EQ(errorInTier("min_tokens_per_second = 0"),
            "p.toml:3:25: 'min_tokens_per_second' must be a number greater than 0");
  for (const char *value : {"0", "32.5"})
    EXPECT_EQ(errorInTier(std::string("bits_per_weight = ") + value),
              "p.toml:3:19: 'bits_per_weight' must be a number greater than 0 and at most 32")
        << value;
}

TEST(PolicyTest, TakesNumbersAtTheEndsOfTheirRanges) {
  const Policy policy =
      policyOf("context = 1073741824\nbatch = 65536\n"
               "switch = { bandwidth_share = 1, hysteresis = 0, min_seconds = 0 }\n"
               "[[tier]]\nname = \"t\"\nbits_per_weight = 32\n"
               "max_perplexity_increase = 0\n");
  EXPECT_EQ(policy.context, 1u << 30);
  EXPECT_EQ(policy.batch, 65536u);
  EXPECT_EQ(policy.switching->bandwidthShare, 1);
  EXPECT_EQ(policy.switching->hysteresis, 0);
  EXPECT_EQ(policy.switching->minSeconds, 0);
  EXPECT_EQ(policy.tiers[0].limits.bitsPerWeight, 32);
  EXPECT_EQ(policy.tiers[0].limits.maxPerplexityIncrease, 0);
}

TEST(PolicyTest, ReadsFractionsAsNumbersAndInPerCent) {
  const std::pair<const char *, double> good[] = {{"0.015", 0.015},
                                                  {"\"1.5%\"", 0.015},
                                                  {"\"1.5 %\"", 0.015},
                                                  {"\" 0 % \"", 0},
                                                  {"2", 2},
                                                  {"\"250 %\"", 2.5},
                                                  {"0", 0},
                                                  {"1e-3", 0.001}};
  for (auto [text, value] : good) {
    const Policy policy =
        policyOf(std::string("[[tier]]\nname = \"t\"\nmax_perplexity_increase = ") + text);
    EXPECT_DOUBLE_EQ(policy.tiers[0].limits.maxPerplexityIncrease.value_or(-1), value) << text;
  }
  for (const char *text : {"\"1.5\"", "\"%\"", "\"\"", "\"one %\"", "\"-1 %\"", "-0.01", "true",
                           "nan", "inf", "\"nan %\"", "[1]", "\"1 % %\"", "\"1 per cent\""})
    EXPECT_EQ(
        errorInTier(std::string("max_perplexity_increase = ") + text),
        "p.toml:3:27: 'max_perplexity_increase' must be a fraction of at least 0, as 0.015 or "
        "\"1.5 %\"")
        << text;
  EXPECT_EQ(errorOf("[canary]\nmax_perplexity_increase = \"2\""),
            "p.toml:2:27: 'max_perplexity_increase' must be a fraction of at least 0, as 0.015 or "
            "\"1.5 %\"");
}

TEST(PolicyTest, RefusesWhatIsNotANumberOfBytes) {
  for (const char *text : {"0", "-1", "1.5", "\"24 gib\"", "\"\"", "\"0 GiB\"", "true"})
    EXPECT_EQ(
        errorOf(std::string("device_memory = ") + text),
        "p.toml:1:17: 'device_memory' must be a number of bytes, as \"24 GiB\" or \"36.13 GB\"")
        << text;
  EXPECT_EQ(errorInTier("host_memory = \"lots\""),
            "p.toml:3:15: 'host_memory' must be a number of bytes, as \"24 GiB\" or \"36.13 GB\"");
}

TEST(PolicyTest, RefusesUnknownNames) {
  EXPECT_EQ(errorInTier("prefer = \"speed\""),
            "p.toml:3:10: unknown preference 'speed' (known: 'quality', 'throughput')");
  for (const char *name : {"80", "sm_", "sm_9", "sm_9a", "sm_8x", "compute_80", "80a"})
    EXPECT_EQ(errorOf(std::string("[targets]\ncuda = [\"sm_80\", \"") + name + "\"]"),
              std::string("p.toml:2:18: unknown architecture '") + name +
                  "' (as 'sm_80', 'sm_90a')");
  const std::string known = "' (known: 'f32', 'bf16', 'int8g32', 'int8g64', 'int8g128', 'int4g32', "
                            "'int4g64', 'int4g128', 'int3g32', 'int3g64', 'int3g128', 'int2g32', "
                            "'int2g64', 'int2g128')";
  EXPECT_EQ(errorInTier("non_expert_format = \"fp16\""),
            "p.toml:3:21: unknown format 'fp16" + known);
  EXPECT_EQ(errorInTier("formats = [\"int8\", \"int5\"]"),
            "p.toml:3:20: unknown format 'int5" + known);
  EXPECT_EQ(errorInTier("pin = [{ experts = \"*\", format = \"q4_0\" }]"),
            "p.toml:3:34: unknown format 'q4_0" + known);
  EXPECT_EQ(errorInTier("pin = [{ experts = \"*\", residency = \"disk\" }]"),
            "p.toml:3:8: unknown residency 'disk' (known: 'host', 'device')");
}

TEST(PolicyTest, RefusesPinsThatSayNothing) {
  const std::string message =
      "p.toml:3:8: a pin needs 'experts' and at least one of 'format', 'residency'";
  EXPECT_EQ(errorInTier("pin = [{}]"), message);
  EXPECT_EQ(errorInTier("pin = [{ experts = \"*\" }]"), message);
  EXPECT_EQ(errorInTier("pin = [{ format = \"int4\" }]"), message);
  EXPECT_EQ(errorInTier("pin = [{ experts = \"layers.[0\", format = \"int4\" }]")
                .find("p.toml:3:8: bad pattern 'layers.[0': "),
            0u);
}

TEST(PolicyTest, ACutPolicyIsReadOrRefusedWithAPosition) {
  const llvm::StringRef text = kFull;
  for (size_t size = 0; size < text.size(); ++size) {
    const std::string message = errorOf(text.take_front(size));
    EXPECT_TRUE(message.empty() || message.find("p.toml:") == 0) << size << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(PolicyTest, BareWidthsStandForTheirBestGroupSize) {
  const std::pair<const char *, const char *> names[] = {
      {"int8", "int8g64"}, {"int4", "int4g32"}, {"int3", "int3g32"},
      {"int2", "int2g32"}, {"bf16", "bf16"},    {"int4g128", "int4g128"}};
  for (auto [name, full] : names)
    EXPECT_EQ(llvm::cantFail(resolveFormat(name)), full);
}

TEST(PolicyTest, TheDefaultIsBf16OnTheHost) {
  const Policy policy = defaultPolicy();
  ASSERT_EQ(policy.tiers.size(), 1u);
  EXPECT_EQ(policy.tiers[0].name, "default");
  EXPECT_TRUE(policy.tiers[0].pins.empty());
  EXPECT_FALSE(policy.tiers[0].planned);
}

TEST(TomlReaderTest, ParsesBytes) {
  const std::pair<const char *, uint64_t> good[] = {
      {"0", 0},
      {"4096", 4096},
      {"4096 B", 4096},
      {"512 MiB", uint64_t(512) << 20},
      {"512MiB", uint64_t(512) << 20},
      {"24GiB", uint64_t(24) << 30},
      {"1.5 KiB", 1536},
      {"36.13 GB", 36130000000},
      {"2 kB", 2000},
      {"3 MB", 3000000},
      {"1 TB", 1000000000000},
      {"2 TiB", uint64_t(2) << 40},
      {"24 GiB ", uint64_t(24) << 30},
      {"0.5", 1}, // to the nearest
  };
  for (auto [text, bytes] : good)
    EXPECT_EQ(parseBytes(text), bytes) << text;
  for (const char *text :
       {"", " ", ".", "GiB", "-1", "+1", "1.2.3", "24 gib", "24 gb", "24 GiB x", "24 G", "1e9",
        "0x10", " 24", "9e", "8388608 TiB", "1,5 GB", "99999999999999999999"})
    EXPECT_FALSE(parseBytes(text)) << text;
  EXPECT_FALSE(parseBytes(std::string(400, '9') + " GiB"));
  EXPECT_EQ(parseBytes("8388607 TiB"), uint64_t(8388607) << 40);
}

TEST(TomlReaderTest, FindsTheNearestName) {
  EXPECT_EQ(nearestName("formt", {"experts", "format", "residency"}), "format");
  EXPECT_EQ(nearestName("memory", {"decode", "memory_bytes"}), "memory_bytes");
  EXPECT_EQ(nearestName("tiers", {"targets", "tier"}), "tier");
  EXPECT_EQ(nearestName("", {"experts", "pin"}), "pin");
}

} // namespace
} // namespace moeplan::compiler
