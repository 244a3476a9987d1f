#include "compiler/profile/profile.h"

#include "tests/support/files.h"

#include <gtest/gtest.h>

namespace moeplan::compiler {
namespace {

constexpr const char *kFull = R"(name = "workstation"

[host]
name = "16 cores"
memory_bytes = "64 GiB"
cache_bytes = "32 MiB"
context_bytes = "1 GiB"
threads = 16
read_bytes_per_second = 6.0e10
read_bandwidth = [
  { threads = 1, bytes_per_second = 2.0e10 },
  { threads = 16, bytes_per_second = 6e10 },
]

[host.decode]
token_seconds = 1e-4
layer_seconds = 2e-5
kv_bytes_per_second = 5e10

[host.prefill]
layer_seconds = 1e-6

[host.kernels.int4]
decode_bytes_per_second = 4e10
decode_cached_bytes_per_second = 9e10
prefill_operations_per_second = 8e11

[host.kernels.int4g128]
decode_bytes_per_second = 4.5e10
prefill_operations_per_second = 9e11

[device]
name = "card"
memory_bytes = 24_000_000_000
context_bytes = "500 MiB"
read_bytes_per_second = 1e12

[device.kernels.bf16]
decode_bytes_per_second = 8e11
prefill_operations_per_second = 1e14

[transfer]
pageable_bytes_per_second = 1.2e10
pinned_bytes_per_second = 2.4e10
in_place_bytes_per_second = 2.0e10
latency_seconds = 1e-5
)";

/// The shortest valid profile, in three parts.
const std::string kHost = "[host]\nmemory_bytes = \"64 GiB\"\nread_bytes_per_second = 6e10\n";
const std::string kKernel =
    "{ decode_bytes_per_second = 4e10, prefill_operations_per_second = 8e11 }\n";
const std::string kKernels = "kernels.int4 = " + kKernel;

std::string errorOf(llvm::StringRef text) {
  auto profile = parseProfile(text, "m.toml");
  return profile ? "" : llvm::toString(profile.takeError());
}

/// Of `line` in a [host] that is valid otherwise; it is line 5 of the text.
std::string errorInHost(const std::string &line) { return errorOf(kHost + kKernels + line + "\n"); }

/// Of `lines` after a valid [host]; they begin at line 5 of the text.
std::string errorAfterHost(const std::string &lines) { return errorInHost(lines); }

/// Of a kernel's table of host rates; it is line 4 of the text.
std::string errorInKernels(const std::string &kernels) {
  return errorOf(kHost + "kernels = " + kernels + "\n");
}

Profile profileOf(llvm::StringRef text) {
  auto profile = parseProfile(text, "m.toml");
  if (!profile) {
    ADD_FAILURE() << llvm::toString(profile.takeError());
    return {};
  }
  return std::move(*profile);
}

TEST(ProfileTest, ReadsAllKeys) {
  const Profile profile = profileOf(kFull);
  EXPECT_EQ(profile.name, "workstation");
  EXPECT_EQ(profile.hostThreads, 16u);
  EXPECT_EQ(profile.hostReadBytesPerSecond,
            (std::map<unsigned, double>{{1, 2.0e10}, {16, 6.0e10}}));
  const Processor &host = profile.host;
  EXPECT_EQ(host.name, "16 cores");
  EXPECT_EQ(host.memoryBytes, uint64_t(64) << 30);
  EXPECT_EQ(host.cacheBytes, uint64_t(32) << 20);
  EXPECT_EQ(host.contextBytes, uint64_t(1) << 30);
  EXPECT_EQ(host.readBytesPerSecond, 6e10);
  EXPECT_EQ(host.tokenSeconds, 1e-4);
  EXPECT_EQ(host.layerSeconds, 2e-5);
  EXPECT_EQ(host.kvBytesPerSecond, 5e10);
  EXPECT_EQ(host.prefillLayerSeconds, 1e-6);
  ASSERT_EQ(host.kernels.size(), 2u);
  EXPECT_EQ(host.kernels.at("int4").decodeBytesPerSecond, 4e10);
  EXPECT_EQ(host.kernels.at("int4").decodeCachedBytesPerSecond, 9e10);
  EXPECT_EQ(host.kernels.at("int4").prefillOperationsPerSecond, 8e11);
  ASSERT_TRUE(profile.device);
  EXPECT_EQ(profile.device->name, "card");
  EXPECT_EQ(profile.device->memoryBytes, 24000000000u);
  EXPECT_EQ(profile.device->contextBytes, uint64_t(500) << 20);
  EXPECT_EQ(profile.device->readBytesPerSecond, 1e12);
  EXPECT_EQ(profile.device->kernels.at("bf16").decodeBytesPerSecond, 8e11);
  EXPECT_EQ(profile.transfer.pageableBytesPerSecond, 1.2e10);
  EXPECT_EQ(profile.transfer.pinnedBytesPerSecond, 2.4e10);
  EXPECT_EQ(profile.transfer.inPlaceBytesPerSecond, 2.0e10);
  EXPECT_EQ(profile.transfer.latencySeconds, 1e-5);
}

TEST(ProfileTest, AbsentKeysHaveTheDocumentedDefaults) {
  const Profile profile = profileOf(kHost + kKernels);
  EXPECT_EQ(profile.name, "");
  EXPECT_EQ(profile.hostThreads, 0u);
  EXPECT_TRUE(profile.hostReadBytesPerSecond.empty());
  EXPECT_FALSE(profile.device);
  EXPECT_EQ(profile.host.cacheBytes, 0u);
  EXPECT_EQ(profile.host.contextBytes, 0u);
  EXPECT_EQ(profile.host.tokenSeconds, 0);
  EXPECT_EQ(profile.host.layerSeconds, 0);
  EXPECT_EQ(profile.host.prefillLayerSeconds, 0);
  EXPECT_EQ(profile.host.kvBytesPerSecond, 6e10) << "as fast as its memory";
  EXPECT_EQ(profile.host.kernels.at("int4").decodeCachedBytesPerSecond, 0);
}

TEST(ProfileTest, EachTransferRateIsAsGoodAsTheOneBefore) {
  const std::string device = kHost + kKernels +
                             "[device]\nmemory_bytes = 1\n"
                             "read_bytes_per_second = 1\n" +
                             kKernels + "[transfer]\n";
  TransferRates rates = profileOf(device + "pageable_bytes_per_second = 3\n").transfer;
  EXPECT_EQ(rates.pinnedBytesPerSecond, 3);
  EXPECT_EQ(rates.inPlaceBytesPerSecond, 3);
  EXPECT_EQ(rates.latencySeconds, 0);
  rates =
      profileOf(device + "pageable_bytes_per_second = 3\npinned_bytes_per_second = 5\n").transfer;
  EXPECT_EQ(rates.pageableBytesPerSecond, 3);
  EXPECT_EQ(rates.inPlaceBytesPerSecond, 5);
}

TEST(ProfileTest, AFormatHasItsOwnRateOrItsWidths) {
  const Profile profile = profileOf(kFull);
  auto rate = [&](const char *name) {
    return profile.host.rate(*findFormat(std::string_view(name)));
  };
  ASSERT_TRUE(rate("int4g32") && rate("int4g64") && rate("int4g128"));
  EXPECT_EQ(rate("int4g32")->decodeBytesPerSecond, 4e10);
  EXPECT_EQ(rate("int4g64")->decodeBytesPerSecond, 4e10);
  EXPECT_EQ(rate("int4g128")->decodeBytesPerSecond, 4.5e10);
  EXPECT_EQ(rate("int8g64"), nullptr);
  EXPECT_EQ(rate("bf16"), nullptr);
  EXPECT_NE(profile.device->rate(*findFormat(std::string_view("bf16"))), nullptr);
}

TEST(ProfileTest, RefusesUnknownKeysAtEveryLevelWithTheNearest) {
  EXPECT_EQ(errorOf("hosts = 1"), "m.toml:1:1: unknown key 'hosts' (nearest known: 'host')");
  EXPECT_EQ(errorInHost("memory = 1"),
            "m.toml:5:1: unknown key 'memory' (nearest known: 'memory_bytes')");
  EXPECT_EQ(errorInHost("decode.token_second = 1"),
            "m.toml:5:8: unknown key 'token_second' (nearest known: 'token_seconds')");
  EXPECT_EQ(errorInHost("prefill.layers_seconds = 1"),
            "m.toml:5:9: unknown key 'layers_seconds' (nearest known: 'layer_seconds')");
  EXPECT_EQ(errorInHost("read_bandwidth = [{ thread = 1 }]"),
            "m.toml:5:21: unknown key 'thread' (nearest known: 'threads')");
  EXPECT_EQ(errorInKernels("{ int5 = {} }"),
            "m.toml:4:13: unknown key 'int5' (nearest known: 'int8')");
  EXPECT_EQ(errorInKernels("{ int4 = { bytes_per_second = 1 } }"),
            "m.toml:4:22: unknown key 'bytes_per_second' (nearest known: "
            "'decode_bytes_per_second')");
  EXPECT_EQ(errorAfterHost("[device]\nthreads = 1\n[transfer]"),
            "m.toml:6:1: unknown key 'threads' (nearest known: 'kernels')");
  EXPECT_EQ(errorAfterHost("[device]\nmemory_bytes = 1\nread_bytes_per_second = 1\n" + kKernels +
                           "[transfer]\nlatency = 1"),
            "m.toml:10:1: unknown key 'latency' (nearest known: 'latency_seconds')");
}

TEST(ProfileTest, NamesWhatIsMissing) {
  EXPECT_EQ(errorOf(""), "m.toml:1:1: a profile needs a table [host]");
  EXPECT_EQ(errorOf("[host]"), "m.toml:1:1: [host] needs 'memory_bytes'");
  EXPECT_EQ(errorOf("[host]\nmemory_bytes = 1"),
            "m.toml:1:1: [host] needs 'read_bytes_per_second'");
  EXPECT_EQ(errorOf(kHost), "m.toml:1:1: [host] needs 'kernels'");
  EXPECT_EQ(errorOf("[host.kernels.int4]"), "m.toml:1:1: [host] needs 'memory_bytes'");
  EXPECT_EQ(errorInKernels("{}"), "m.toml:4:11: [host.kernels] needs at least one format");
  EXPECT_EQ(errorInKernels("{ int4 = {} }"),
            "m.toml:4:20: [host.kernels.int4] needs 'decode_bytes_per_second'");
  EXPECT_EQ(errorInKernels("{ int4 = { decode_bytes_per_second = 1 } }"),
            "m.toml:4:20: [host.kernels.int4] needs 'prefill_operations_per_second'");
  EXPECT_EQ(errorInHost("read_bandwidth = [{ threads = 1 }]"),
            "m.toml:5:19: [[host.read_bandwidth]] needs 'bytes_per_second'");
  EXPECT_EQ(errorInHost("read_bandwidth = [{ bytes_per_second = 1 }]"),
            "m.toml:5:19: [[host.read_bandwidth]] needs 'threads'");
  EXPECT_EQ(errorAfterHost("[device]\n[transfer]"), "m.toml:5:1: [device] needs 'memory_bytes'");
  EXPECT_EQ(errorAfterHost("[device]\nmemory_bytes = 1\nread_bytes_per_second = 1\n" + kKernels +
                           "[transfer]"),
            "m.toml:9:1: [transfer] needs 'pageable_bytes_per_second'");
  const std::string together = "[device] and [transfer] describe a device together: one is missing";
  EXPECT_EQ(errorAfterHost("[device]"), "m.toml:5:1: " + together);
  EXPECT_EQ(errorAfterHost("[transfer]"), "m.toml:5:1: " + together);
}

TEST(ProfileTest, RefusesValuesOfTheWrongKind) {
  EXPECT_EQ(errorOf("name = 5"), "m.toml:1:8: 'name' must be a string that is not empty");
  EXPECT_EQ(errorOf("host = 5"), "m.toml:1:8: 'host' must be a table");
  EXPECT_EQ(errorInHost("name = \"\""), "m.toml:5:8: 'name' must be a string that is not empty");
  EXPECT_EQ(errorInHost("decode = 5"), "m.toml:5:10: 'decode' must be a table");
  EXPECT_EQ(errorInHost("prefill = []"), "m.toml:5:11: 'prefill' must be a table");
  EXPECT_EQ(errorInHost("read_bandwidth = 6e10"), "m.toml:5:18: 'read_bandwidth' must be a list");
  EXPECT_EQ(errorInHost("read_bandwidth = [6e10]"),
            "m.toml:5:19: a read_bandwidth must be a table");
  EXPECT_EQ(errorInKernels("5"), "m.toml:4:11: 'kernels' must be a table");
  EXPECT_EQ(errorInKernels("{ int4 = 5 }"), "m.toml:4:20: 'int4' must be a table");
  EXPECT_EQ(errorOf("device = 5\n" + kHost + kKernels), "m.toml:1:10: 'device' must be a table");
  EXPECT_EQ(errorOf("transfer = 5\n" + kHost + kKernels),
            "m.toml:1:12: 'transfer' must be a table");
  EXPECT_EQ(errorOf("device = {}\ntransfer = 5\n" + kHost + kKernels),
            "m.toml:2:12: 'transfer' must be a table");
}

TEST(ProfileTest, RefusesNumbersOutOfRange) {
  for (const char *value : {"0", "-1", "65537", "1.5", "\"4\""})
    EXPECT_EQ(errorInHost(std::string("threads = ") + value),
              "m.toml:5:11: 'threads' must be a whole number from 1 to 65536")
        << value;
  EXPECT_EQ(errorInHost("cache_bytes = \"big\""),
            "m.toml:5:15: 'cache_bytes' must be a number of bytes, as \"24 GiB\" or \"36.13 GB\"");
  EXPECT_EQ(
      errorInHost("context_bytes = 0"),
      "m.toml:5:17: 'context_bytes' must be a number of bytes, as \"24 GiB\" or \"36.13 GB\"");
  EXPECT_EQ(errorOf("[host]\nmemory_bytes = -1\nread_bytes_per_second = 1\nkernels = {}"),
            "m.toml:2:16: 'memory_bytes' must be a number of bytes, as \"24 GiB\" or \"36.13 GB\"");
  EXPECT_EQ(errorOf("[host]\nmemory_bytes = 1\nread_bytes_per_second = 0\nkernels = {}"),
            "m.toml:3:25: 'read_bytes_per_second' must be a number greater than 0");
  EXPECT_EQ(errorInHost("decode = { token_seconds = -1 }"),
            "m.toml:5:28: 'token_seconds' must be a number of at least 0");
  EXPECT_EQ(errorInHost("decode = { layer_seconds = nan }"),
            "m.toml:5:28: 'layer_seconds' must be a number of at least 0");
  EXPECT_EQ(errorInHost("decode = { kv_bytes_per_second = 0 }"),
            "m.toml:5:34: 'kv_bytes_per_second' must be a number greater than 0");
  EXPECT_EQ(errorInHost("prefill = { layer_seconds = \"1\" }"),
            "m.toml:5:29: 'layer_seconds' must be a number of at least 0");
  EXPECT_EQ(errorInHost("read_bandwidth = [{ threads = 1, bytes_per_second = inf }]"),
            "m.toml:5:53: 'bytes_per_second' must be a number greater than 0");
  EXPECT_EQ(errorInHost("read_bandwidth = [{ threads = 0, bytes_per_second = 1 }]"),
            "m.toml:5:31: 'threads' must be a whole number from 1 to 65536");
  for (const char *key : {"decode_bytes_per_second", "prefill_operations_per_second",
                          "decode_cached_bytes_per_second"}) {
    const std::string message =
        errorInKernels(std::string("{ int4 = { decode_bytes_per_second = ") +
                       (key == std::string("decode_bytes_per_second") ? "0" : "1") +
                       ", prefill_operations_per_second = " +
                       (key == std::string("prefill_operations_per_second") ? "0" : "1") +
                       (key == std::string("decode_cached_bytes_per_second")
                            ? ", decode_cached_bytes_per_second = 0 } }"
                            : " } }"));
    EXPECT_NE(message.find(std::string(": '") + key + "' must be a number greater than 0"),
              std::string::npos)
        << message;
  }
}

TEST(ProfileTest, RefusesTransferRatesOutOfRange) {
  const std::string device =
      "[device]\nmemory_bytes = 1\nread_bytes_per_second = 1\n" + kKernels + "[transfer]\n";
  EXPECT_EQ(errorAfterHost(device + "pageable_bytes_per_second = 0"),
            "m.toml:10:29: 'pageable_bytes_per_second' must be a number greater than 0");
  EXPECT_EQ(errorAfterHost(device + "pageable_bytes_per_second = 1\npinned_bytes_per_second = -1"),
            "m.toml:11:27: 'pinned_bytes_per_second' must be a number greater than 0");
  EXPECT_EQ(errorAfterHost(device + "pageable_bytes_per_second = 1\nin_place_bytes_per_second = 0"),
            "m.toml:11:29: 'in_place_bytes_per_second' must be a number greater than 0");
  EXPECT_EQ(errorAfterHost(device + "pageable_bytes_per_second = 1\nlatency_seconds = -1"),
            "m.toml:11:19: 'latency_seconds' must be a number of at least 0");
}

TEST(ProfileTest, RefusesTheSameThreadsTwice) {
  EXPECT_EQ(errorInHost("read_bandwidth = [{ threads = 2, bytes_per_second = 1 }, { threads = 2, "
                        "bytes_per_second = 2 }]"),
            "m.toml:5:58: a read_bandwidth for 2 threads occurs twice");
}

TEST(ProfileTest, ACutProfileIsReadOrRefusedWithAPosition) {
  const llvm::StringRef text = kFull;
  for (size_t size = 0; size < text.size(); ++size) {
    const std::string message = errorOf(text.take_front(size));
    EXPECT_TRUE(message.empty() || message.find("m.toml:") == 0) << size << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(ProfileTest, ReadsAFileAndNamesOneThatIsNotThere) {
  testing::TemporaryDirectory directory;
  const std::string path = directory.path() / "m.toml";
  auto absent = readProfile(path);
  ASSERT_FALSE(bool(absent));
  EXPECT_EQ(llvm::toString(absent.takeError()), path + ": No such file or directory");
  testing::writeFile(path, kFull);
  auto profile = readProfile(path);
  ASSERT_TRUE(bool(profile)) << llvm::toString(profile.takeError());
  EXPECT_EQ(profile->name, "workstation");
}

} // namespace
} // namespace moeplan::compiler
