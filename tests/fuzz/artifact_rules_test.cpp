// Artifacts that are wrong in one place: one case per rule of runtime/artifact.
#include "formats.h"
#include "kernel_abi.h"
#include "tests/fuzz/refusal.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace moeplan::testing {
namespace {

using fb::Access;
using fb::BindingKind;

std::string headerRefusal(const std::function<void(ArtifactHeader &)> &change) {
  std::string file = ArtifactDraft().build();
  ArtifactHeader header = headerOf(file);
  change(header);
  std::memcpy(file.data(), &header, sizeof(header));
  return refusal(file);
}

TEST(ArtifactRulesTest, TheDraftBreaksNoRule) { EXPECT_EQ(refusal(ArtifactDraft().build()), ""); }

TEST(ArtifactRulesTest, Header) {
  EXPECT_EQ(refusal(std::string()), "not a .moeplan file");
  EXPECT_EQ(refusal(std::string("MOEPLAN\n")), "cut off: 8 bytes, the header alone has 64");
  EXPECT_EQ(headerRefusal([](auto &h) { h.magic[0] = 'm'; }), "not a .moeplan file");
  EXPECT_EQ(headerRefusal([](auto &h) { h.format_version = 2; }),
            "format version 2, this runtime reads version 1");
  EXPECT_EQ(headerRefusal([](auto &h) { h.header_size = 65; }), "header size 65, expected 64");
  EXPECT_EQ(headerRefusal([](auto &h) { h.feature_bits = uint64_t(1) << 63; }),
            "needs features this runtime does not know; use a newer one");
  EXPECT_NE(headerRefusal([](auto &h) { ++h.file_size; }).find("bytes, its header says"),
            std::string::npos);
  EXPECT_EQ(headerRefusal([](auto &h) { h.metadata_offset = 72; }),
            "metadata lies outside the file");
  EXPECT_EQ(headerRefusal([](auto &h) { h.metadata_offset = UINT64_MAX; }),
            "metadata lies outside the file");
  EXPECT_EQ(headerRefusal([](auto &h) { h.metadata_size = h.file_size; }),
            "metadata lies outside the file");
  EXPECT_EQ(headerRefusal([](auto &h) { h.metadata_size = UINT64_MAX; }),
            "metadata lies outside the file");
  EXPECT_EQ(headerRefusal([](auto &h) { h.segment_base = 0; }), "segments lie outside the file");
  EXPECT_EQ(headerRefusal([](auto &h) { ++h.segment_base; }), "segments lie outside the file");
  EXPECT_EQ(headerRefusal([](auto &h) { h.segment_base = uint64_t(1) << 40; }),
            "segments lie outside the file");
  EXPECT_EQ(headerRefusal([](auto &h) { ++h.checksum; }),
            "checksum of header and metadata does not match: the file is damaged");
}

TEST(ArtifactRulesTest, MetadataOfAnotherKind) {
  std::string file = ArtifactDraft().build();
  file[64 + 4] = 'X'; // the FlatBuffer's file identifier
  sealArtifact(file, headerOf(file));
  EXPECT_EQ(refusal(file), "metadata is not a valid FlatBuffer of this schema");
  ArtifactHeader header = headerOf(file);
  header.metadata_size = 0;
  sealArtifact(file, header);
  EXPECT_EQ(refusal(file), "metadata is not a valid FlatBuffer of this schema");
}

TEST(ArtifactRulesTest, Model) {
  auto model = [](auto &&change) { return refusal([&](ArtifactDraft &d) { change(d.model); }); };
  EXPECT_EQ(model([](auto &m) { m.vocabSize = 0; }), "model: vocab_size is 0");
  EXPECT_EQ(model([](auto &m) { m.vocabSize = (1u << 24) + 1; }), "model: vocab_size is 16777217");
  EXPECT_EQ(model([](auto &m) { m.hiddenSize = 0; }), "model: hidden_size is 0");
  EXPECT_EQ(model([](auto &m) { m.intermediateSize = 0; }), "model: intermediate_size is 0");
  EXPECT_EQ(model([](auto &m) { m.numLayers = 65537; }), "model: num_layers is 65537");
  EXPECT_EQ(model([](auto &m) { m.numAttentionHeads = 0; }), "model: num_attention_heads is 0");
  EXPECT_EQ(model([](auto &m) { m.numKeyValueHeads = 0; }), "model: num_key_value_heads is 0");
  EXPECT_EQ(model([](auto &m) { m.headDim = 65537; }), "model: head_dim is 65537");
  EXPECT_EQ(model([](auto &m) { m.numExperts = 0; }), "model: num_experts is 0");
  EXPECT_EQ(model([](auto &m) { m.numExpertsPerTok = 3; }), "model: num_experts_per_tok is 3");
  EXPECT_EQ(model([](auto &m) { m.maxPositionEmbeddings = 0; }),
            "model: max_position_embeddings is 0");
  EXPECT_EQ(model([](auto &m) { m.numKeyValueHeads = 3; }),
            "model: num_attention_heads is no multiple of num_key_value_heads");
  EXPECT_EQ(model([](auto &m) { m.kvCacheFormat = fb::KvFormat::none; }),
            "model: unknown kv_cache_format");
  for (auto beyond : {int(fb::KvFormat::MAX) + 1, 9})
    EXPECT_EQ(model([=](auto &m) { m.kvCacheFormat = static_cast<fb::KvFormat>(beyond); }),
              "model: unknown kv_cache_format");
  for (auto known : {fb::KvFormat::f32, fb::KvFormat::bf16, fb::KvFormat::int8})
    EXPECT_EQ(model([=](auto &m) { m.kvCacheFormat = known; }), "");
}

std::string segmentRefusal(uint32_t index, const std::function<void(SegmentDraft &)> &change) {
  return refusal([&](ArtifactDraft &d) { change(d.segments[index]); });
}

std::string extentRefusal(uint32_t index, fb::Extent extent) {
  return refusal([&](ArtifactDraft &d) { d.extents = {{index, extent}}; });
}

TEST(ArtifactRulesTest, Segments) {
  using D = ArtifactDraft;
  EXPECT_EQ(segmentRefusal(D::kUp, [](auto &s) { s.name = ""; }),
            "segment with an empty or overlong name");
  EXPECT_EQ(segmentRefusal(D::kUp, [](auto &s) { s.name = std::string(1025, 'x'); }),
            "segment with an empty or overlong name");
  EXPECT_EQ(segmentRefusal(D::kUp, [](auto &s) { s.name = "down"; }),
            "segment 'down' occurs twice");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.kind = fb::SegmentKind(3); }),
            "segment 'norm': unknown kind or compression");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.compression = fb::Compression(2); }),
            "segment 'norm': unknown kind or compression");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.bytes = 17; }),
            "segment 'norm': states two sizes");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.compression = fb::Compression::zstd; }),
            "segment 'norm': compressed weights");
  for (auto format : {fb::Format::none, fb::Format(15)})
    EXPECT_EQ(segmentRefusal(D::kNorm, [&](auto &s) { s.format = format; }),
              "segment 'norm': is a weight without format or shape");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.format = fb::Format::int4g64; }),
            "segment 'norm': is a vector in a format of matrices");
  EXPECT_EQ(segmentRefusal(D::kUp, [](auto &s) { s.format = fb::Format::int4g64; }),
            "segment 'up': has 96 bytes, which is not its shape's size");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.shape.reset(); }),
            "segment 'norm': is a weight without format or shape");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.shape.emplace(); }),
            "segment 'norm': is a weight without format or shape");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.shape = {{1, 2, 2}}; }),
            "segment 'norm': is a weight without format or shape");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.shape = {{5}}; }),
            "segment 'norm': has 16 bytes, which is not its shape's size");
  EXPECT_EQ(segmentRefusal(D::kNorm, [](auto &s) { s.shape = {{uint64_t(1) << 63, 4}}; }),
            "segment 'norm': has 16 bytes, which is not its shape's size");
  EXPECT_EQ(extentRefusal(D::kNorm, {12288, 0, 0, 0}), "segment 'norm': lies outside the file");
  EXPECT_EQ(extentRefusal(D::kNorm, {12288, 17, 17, 0}), "segment 'norm': lies outside the file");
  EXPECT_EQ(extentRefusal(D::kNorm, {1 << 20, 16, 16, 0}), "segment 'norm': lies outside the file");
  EXPECT_EQ(extentRefusal(D::kNorm, {UINT64_MAX - 15, 16, 16, 0}),
            "segment 'norm': lies outside the file");
  EXPECT_EQ(extentRefusal(D::kNorm, {12288 - 64, 16, 16, 0}), "segment 'norm': is misaligned");
  EXPECT_EQ(extentRefusal(D::kTokenizer, {130, 10, 10, 0}), "segment 'tokenizer': is misaligned");
  EXPECT_EQ(extentRefusal(D::kNorm, {8192, 16, 16, 0}), "segments overlap at byte 8192");
}

std::string syntheticRefusal(uint32_t index, const std::function<void(ArtifactDraft &)> &change) {
  return refusal([&](ArtifactDraft &d) {
    d.makeSynthetic(index);
    change(d);
  });
}

TEST(ArtifactRulesTest, SyntheticSegments) {
  using D = ArtifactDraft;
  EXPECT_EQ(syntheticRefusal(D::kUp, [](D &) {}), "");
  EXPECT_EQ(syntheticRefusal(D::kTokenizer, [](D &) {}),
            "segment 'tokenizer': is synthetic but no plain weight");
  EXPECT_EQ(syntheticRefusal(D::kUp,
                             [](D &d) { d.segments[D::kUp].compression = fb::Compression::zstd; }),
            "segment 'up': is synthetic but no plain weight");
  for (fb::Extent extent :
       {fb::Extent(4096, 0, 96, 0), fb::Extent(0, 96, 96, 0), fb::Extent(0, 0, 96, 1)})
    EXPECT_EQ(syntheticRefusal(D::kUp, [&](D &d) { d.extents = {{D::kUp, extent}}; }),
              "segment 'up': is synthetic but lies in the file");
  EXPECT_EQ(syntheticRefusal(D::kUp, [](D &d) { d.segments[D::kUp].bytes = 95; }),
            "segment 'up': has 95 bytes, which is not its shape's size");
  EXPECT_EQ(syntheticRefusal(D::kUp,
                             [](D &d) {
                               d.segments[D::kUp].bytes = 0;
                               d.segments[D::kUp].shape = {{0, 4}};
                             }),
            "segment 'up': is synthetic and empty");
  EXPECT_EQ(syntheticRefusal(D::kUp, [](D &d) { d.syntheticSeed.reset(); }),
            "synthetic weights without a seed");
  EXPECT_EQ(refusal([](D &d) { d.syntheticSeed = 0; }), "a seed without synthetic weights");
  EXPECT_EQ(syntheticRefusal(D::kUp, [](D &d) { d.featureBits = 0; }),
            "feature bits 2 expected, the header has 0");
  // Nothing but this bound limits them; two that are below it are too much together.
  const char *bound = "synthetic weights of more than 4398046511104 bytes";
  auto large = [](D &d, uint32_t index, uint64_t rows) {
    d.makeSynthetic(index);
    d.segments[index].format = fb::Format::f32;
    d.segments[index].shape = {{rows, 1 << 20}};
    d.segments[index].bytes = rows << 22;
  };
  auto norms = [&](uint64_t rows, uint64_t others) {
    return refusal([&](D &d) {
      large(d, D::kNorm, rows);
      d.segments.push_back(d.segments[D::kNorm]);
      d.segments.back().name = "other";
      d.segments.back().shape = {{others, 1 << 20}};
      d.segments.back().bytes = others << 22;
    });
  };
  EXPECT_EQ(norms((1 << 20) - 1, 1), "");
  EXPECT_EQ(norms(1 << 20, 1), bound);
  EXPECT_EQ(norms((1 << 20) + 1, 1), bound);
  EXPECT_EQ(norms(uint64_t(1) << 38, 1), bound);
  EXPECT_EQ(syntheticRefusal(D::kNorm,
                             [](D &d) {
                               d.segments[D::kNorm].shape = {{uint64_t(1) << 63, 8}};
                               d.segments[D::kNorm].bytes = 0;
                             }),
            "segment 'norm': is synthetic and empty");
}

TEST(ArtifactRulesTest, KernelsAndLibraries) {
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.kernels = {{"k", 0}, {"k", 0}}; }),
            "kernel 'k' occurs twice");
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.kernels = {{"", 0}}; }),
            "kernel with an empty or overlong name");
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.libraries.clear(); }), "no kernel library");
  for (uint32_t segment : {1u, 2u, 5u, UINT32_MAX})
    EXPECT_EQ(refusal([&](ArtifactDraft &d) { d.libraries[0].segment = segment; }),
              "a kernel library is not a code segment");
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.libraries[0].kernels = 1; }),
            "a kernel library does not have all kernels");
  for (uint32_t segment : {0u, 2u, 5u})
    EXPECT_EQ(refusal([&](ArtifactDraft &d) { d.tokenizerSegment = segment; }),
              "the tokenizer is not a tokenizer segment");
}

TEST(ArtifactRulesTest, FeatureBitsAreThoseInUse) {
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.tokenizerSegment = kNoTokenizer; }), "");
  EXPECT_EQ(refusal([](ArtifactDraft &d) { d.featureBits = kFeatureNoTokenizer; }),
            "feature bits 0 expected, the header has 1");
  EXPECT_EQ(refusal([](ArtifactDraft &d) {
              d.tokenizerSegment = kNoTokenizer;
              d.featureBits = 0;
            }),
            "feature bits 1 expected, the header has 0");
}

TEST(ArtifactRulesTest, Plans) {
  using D = ArtifactDraft;
  EXPECT_EQ(refusal([](D &d) { d.plans.clear(); }), "no plan");
  EXPECT_EQ(refusal([](D &d) { d.plans.push_back(d.plans[0]); }), "plan 'default' occurs twice");
  EXPECT_EQ(refusal([](D &d) { d.plans[0].experts.pop_back(); }),
            "plan 'default': its expert table has 3 rows");
  const auto host = fb::Residency::host;
  for (const fb::Expert &expert :
       {fb::Expert(D::kDown, D::kUp, D::kDown, host), fb::Expert(D::kUp, D::kNorm, D::kDown, host),
        fb::Expert(D::kUp, D::kUp, D::kUp, host), fb::Expert(D::kUp, D::kUp, D::kCode, host),
        fb::Expert(D::kUp, D::kUp, 99, host),
        fb::Expert(D::kUp, D::kUp, D::kDown, fb::Residency(2))})
    EXPECT_EQ(refusal([&](D &d) { d.plans[0].experts[3] = expert; }),
              "plan 'default': a row of its expert table is wrong");
  EXPECT_EQ(refusal([](D &d) { d.plans[0].programs.clear(); }), "plan 'default': no program");
  const char *order = "plan 'default': programs are not in order of max_tokens, from 1";
  EXPECT_EQ(refusal([](D &d) { d.program().maxTokens = 0; }), order);
  EXPECT_EQ(refusal([](D &d) { d.program().maxTokens = 2; }), order);
  EXPECT_EQ(refusal([](D &d) { d.plans[0].programs.push_back({"again", 1, 0, {}}); }), order);
  EXPECT_EQ(refusal([](D &d) { d.plans[0].programs.push_back({"huge", 65537, 0, {}}); }), order);
  EXPECT_EQ(refusal([](D &d) { d.plans[0].programs.push_back({"prefill", 64, 0, {}}); }), "");
  EXPECT_EQ(refusal([](D &d) { d.program().arenaBytes = (uint64_t(1) << 40) + 1; }),
            "plan 'default': program 'decode': arena of 1099511627777 bytes");
}

/// The refusal of a program with 256 bytes of arena and one kernel of one operand.
std::string commandRefusal(CommandDraft command) {
  const std::string message = refusal([&](ArtifactDraft &d) {
    d.kernels = {{"k", 1, "experts_gate_up", {{"formats", 1 << MOEPLAN_FORMAT_F32}}}};
    d.program().arenaBytes = 256;
    d.program().commands = {barrier(), std::move(command)};
  });
  const std::string where = "plan 'default': program 'decode': command 1: ";
  EXPECT_TRUE(message.empty() || message.starts_with(where)) << message;
  return message.empty() ? message : message.substr(where.size());
}

TEST(ArtifactRulesTest, Dispatches) {
  EXPECT_EQ(commandRefusal(dispatch(0, 1, {arena(0, 256)})), "");
  EXPECT_EQ(commandRefusal(dispatch(1, 1, {arena(0, 256)})), "no such kernel");
  EXPECT_EQ(commandRefusal(dispatch(0, 1, {})), "wrong number of operands");
  EXPECT_EQ(commandRefusal(dispatch(0, 1, {arena(0, 64), arena(64, 64)})),
            "wrong number of operands");
  EXPECT_EQ(commandRefusal(dispatch(0, 0, {arena(0, 256)})), "grid of 0 tiles");
  EXPECT_EQ(commandRefusal(dispatch(0, (1u << 24) + 1, {arena(0, 256)})), "grid of 16777217 tiles");
  CommandDraft unknown = barrier();
  unknown.kind = fb::Command(9);
  EXPECT_EQ(commandRefusal(unknown), "unknown kind");
  unknown.kind = fb::Command::NONE;
  EXPECT_EQ(commandRefusal(unknown), "unknown kind");
}

TEST(ArtifactRulesTest, AFormatThatAKernelCannotReadIsRefused) {
  using D = ArtifactDraft;
  auto refusalOf = [](KernelDraft kernel, fb::Binding binding) {
    const std::string message = refusal([&](D &d) {
      d.kernels = {std::move(kernel)};
      d.program().commands = {dispatch(0, 1, {binding})};
    });
    const std::string where = "plan 'default': program 'decode': ";
    EXPECT_TRUE(message.empty() || message.starts_with(where)) << message;
    return message.empty() ? message : message.substr(where.size());
  };
  // In the draft w1 and w3 are f32, w2 is bf16.
  const fb::Binding experts = operand(BindingKind::experts, 1, 0, 0);
  const int64_t f32 = 1 << MOEPLAN_FORMAT_F32, bf16 = 1 << MOEPLAN_FORMAT_BF16;
  EXPECT_EQ(refusalOf({"k", 1, "experts_gate_up", {{"formats", f32}}}, experts), "");
  EXPECT_EQ(refusalOf({"k", 1, "experts_down", {{"formats", bf16}}}, experts), "");
  EXPECT_EQ(refusalOf({"k", 1, "experts_down", {{"formats", ~bf16}}}, experts),
            "no kernel for layers.1.experts.0.w2, which is bf16: 'k' cannot read that");
  EXPECT_EQ(refusalOf({"k", 1, "experts_gate_up", {{"formats", bf16}}}, experts),
            "no kernel for layers.1.experts.0.w1, which is f32: 'k' cannot read that");
  EXPECT_EQ(refusalOf({"k", 1, "experts_gate_up"}, experts),
            "kernel 'k' reads experts in formats that it does not state");
  EXPECT_EQ(refusalOf({"k", 1, "linear", {{"formats", f32}}}, experts),
            "kernel 'k' reads experts in formats that it does not state");

  const fb::Binding down = operand(BindingKind::segment, D::kDown, 0, 48);
  EXPECT_EQ(refusalOf({"k", 1, "linear", {{"weight_format", MOEPLAN_FORMAT_BF16}}}, down), "");
  EXPECT_EQ(refusalOf({"k", 1, "linear", {{"weight_format", MOEPLAN_FORMAT_INT4G32}}}, down),
            "kernel 'k' reads int4g32, segment 'down' is bf16");
  EXPECT_EQ(refusalOf({"k", 1}, down), "kernel 'k' reads f32, segment 'down' is bf16");
  // The scale of a norm is float32 whatever the matrix beside it is.
  const fb::Binding norm = operand(BindingKind::segment, D::kNorm, 0, 16);
  const KernelDraft fused{"k", 1, "vector_linear", {{"weight_format", MOEPLAN_FORMAT_BF16}}};
  EXPECT_EQ(refusalOf(fused, norm), "");
  EXPECT_EQ(refusal([&](D &d) {
              d.segments[D::kNorm].format = fb::Format::bf16;
              d.segments[D::kNorm].stored.resize(*formatBytes(*findFormat("bf16"), 1, 4));
              d.kernels = {fused};
              d.program().commands = {dispatch(0, 1, {norm})};
            }),
            "plan 'default': program 'decode': kernel 'k' reads f32, segment 'norm' is bf16");

  EXPECT_EQ(refusal([](D &d) {
              d.kernels = {{"k", 1}};
              d.libraries[0].codeBytes = 0;
            }),
            "the kernel library for test has no code for kernel 'k'");
}

TEST(ArtifactRulesTest, Copies) {
  EXPECT_EQ(commandRefusal(copy(arena(0, 64), arena(64, 64))), "");
  EXPECT_EQ(commandRefusal(copy(arena(0, 64), arena(64, 32))), "copies between different sizes");
  EXPECT_EQ(commandRefusal(copy(operand(BindingKind::keys, 0, 0, 0),
                                operand(BindingKind::values, 0, 0, 0, Access::write))),
            "copies between different sizes");
  EXPECT_EQ(commandRefusal(copy(arena(0, 64), arena(64, 64, Access::read))),
            "copies to what is only read");
  EXPECT_EQ(commandRefusal(copy(arena(0, 512), arena(64, 64))),
            "an operand reaches beyond its memory");
}

TEST(ArtifactRulesTest, Operands) {
  auto bound = [](fb::Binding binding) { return commandRefusal(dispatch(0, 1, {binding})); };
  const char *nothing = "an operand names nothing that exists";
  const char *readOnly = "an operand is written but read-only";
  const char *beyond = "an operand reaches beyond its memory";
  using D = ArtifactDraft;

  EXPECT_EQ(bound(operand(BindingKind(9), 0, 0, 0)), nothing);
  EXPECT_EQ(bound(operand(BindingKind::candidates, 0, 0, 8, Access::write)), nothing);
  EXPECT_EQ(bound(arena(0, 64, Access(3))), "unknown access");

  EXPECT_EQ(bound(arena(192, 64)), "");
  EXPECT_EQ(bound(arena(0, 0)), nothing);
  EXPECT_EQ(bound(arena(4, 16)), nothing);
  EXPECT_EQ(bound(arena(192, 65)), beyond);
  EXPECT_EQ(bound(arena(UINT64_MAX - 63, 64)), beyond);

  EXPECT_EQ(bound(operand(BindingKind::segment, D::kUp, 0, 96)), "");
  EXPECT_EQ(bound(operand(BindingKind::segment, D::kCode, 0, 1)), nothing);
  EXPECT_EQ(bound(operand(BindingKind::segment, 99, 0, 1)), nothing);
  EXPECT_EQ(bound(operand(BindingKind::segment, D::kUp, 0, 96, Access::write)), readOnly);
  EXPECT_EQ(bound(operand(BindingKind::segment, D::kUp, 0, 97)), beyond);
  EXPECT_EQ(bound(operand(BindingKind::segment, D::kUp, 97, 0)), beyond);

  for (BindingKind kind : {BindingKind::keys, BindingKind::values}) {
    EXPECT_EQ(bound(operand(kind, 1, 0, 0, Access::read_write)), "");
    EXPECT_EQ(bound(operand(kind, 2, 0, 0)), nothing);
    EXPECT_EQ(bound(operand(kind, 0, 0, 4)), beyond);
  }
  EXPECT_EQ(bound(operand(BindingKind::experts, 1, 0, 0)), "");
  EXPECT_EQ(bound(operand(BindingKind::experts, 2, 0, 0)), nothing);
  EXPECT_EQ(bound(operand(BindingKind::experts, 0, 0, 0, Access::read_write)), readOnly);

  EXPECT_EQ(bound(operand(BindingKind::expert_slots, 0, 0, 0, Access::read_write)), nothing);

  EXPECT_EQ(bound(operand(BindingKind::tokens, 0, 0, 4)), "");
  EXPECT_EQ(bound(operand(BindingKind::tokens, 0, 0, 8)), beyond);
  EXPECT_EQ(bound(operand(BindingKind::tokens, 0, 0, 4, Access::write)), readOnly);

  EXPECT_EQ(bound(operand(BindingKind::logits, 0, 0, 32, Access::write)), "");
  EXPECT_EQ(bound(operand(BindingKind::logits, 0, 4, 28, Access::write)), nothing);
  EXPECT_EQ(bound(operand(BindingKind::logits, 0, 0, 33, Access::write)), beyond);
}

TEST(ArtifactRulesTest, VerifyNamesTheSegmentThatIsDamaged) {
  TemporaryDirectory directory;
  const std::string path = directory.path() / "a.moeplan";
  auto verify = [&](const ArtifactDraft &draft, int64_t damage) {
    std::string file = draft.build();
    if (damage >= 0)
      file[headerOf(file).segment_base + size_t(damage)] ^= 1;
    writeFile(path, file);
    auto artifact = Artifact::open(path);
    EXPECT_TRUE(artifact.ok());
    const std::string message = artifact.value()->verify({}).message();
    EXPECT_TRUE(message.empty() || message.starts_with(path + ": ")) << message;
    return message.substr(std::min(message.size(), path.size() + 2));
  };
  const ArtifactDraft draft;
  EXPECT_EQ(verify(draft, -1), "");
  EXPECT_EQ(verify(draft, 0), "segment 'code': checksum does not match");
  EXPECT_EQ(verify(draft, 137), "segment 'tokenizer': checksum does not match");
  EXPECT_EQ(verify(draft, 4096), "segment 'up': checksum does not match");
  EXPECT_EQ(verify(draft, 12288 + 15), "segment 'norm': checksum does not match");
  const std::string padding = verify(draft, 100);
  EXPECT_TRUE(padding.starts_with("padding at byte ") && padding.ends_with(" is not zero"))
      << padding;

  // Bytes that are no zstd frame, and a size that is not the content's.
  ArtifactDraft wrong;
  wrong.segments[ArtifactDraft::kTokenizer].compression = fb::Compression::zstd;
  EXPECT_TRUE(verify(wrong, -1).starts_with("segment 'tokenizer': ")) << verify(wrong, -1);
  wrong.segments[ArtifactDraft::kTokenizer].bytes = uint64_t(1) << 40;
  EXPECT_EQ(verify(wrong, -1), "segment 'tokenizer': claims 1099511627776 bytes");
  // A frame of five raw bytes (RFC 8878): magic, single segment of 5, one last raw block of 5.
  using namespace std::string_literals;
  wrong.segments[ArtifactDraft::kTokenizer].stored = "\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello"s;
  wrong.segments[ArtifactDraft::kTokenizer].bytes = 5;
  EXPECT_EQ(verify(wrong, -1), "");
  wrong.segments[ArtifactDraft::kTokenizer].bytes = 6;
  EXPECT_EQ(verify(wrong, -1), "segment 'tokenizer': decompresses to 5 bytes, 6 stated");
  wrong.segments[ArtifactDraft::kTokenizer].bytes = 4;
  EXPECT_TRUE(verify(wrong, -1).starts_with("segment 'tokenizer': ")) << verify(wrong, -1);
}

} // namespace
} // namespace moeplan::testing
