#include "runtime/executor/work.h"

#include "formats.h"
#include "kernel_abi.h"
#include "runtime/artifact/kernel_formats.h"

#include <algorithm>
#include <set>
#include <utility>

namespace moeplan {

namespace {

/// One dispatch in one step. The constants are those its machine code was made with, so that they
/// are trusted as that is.
struct Call {
  const fb::Kernel &kernel;
  std::span<void *const> operands;
  const moeplan_step &step;

  uint64_t constant(std::string_view name) const {
    return static_cast<uint64_t>(integerConstant(kernel, name).value_or(0));
  }
  /// The first row of activations that is computed: `logits_rows` of kernels/cpu/kernels.h.
  uint64_t firstRow() const { return constant("logits_rows") ? step.logits_begin : 0; }
  uint64_t rows() const { return step.token_count - firstRow(); }

  template <typename T> const T *operand(size_t index) const {
    return static_cast<const T *>(operands[index]);
  }
};

/// `rows` activations times a weight [outFeatures, inFeatures], which is read once.
moeplan_work product(uint64_t rows, uint64_t outFeatures, uint64_t inFeatures, uint64_t format) {
  moeplan_work work{};
  const FormatInfo *info = findFormat(static_cast<uint32_t>(format));
  if (rows == 0 || !info)
    return work;
  work.weight_bytes = formatBytes(*info, outFeatures, inFeatures).value_or(0);
  const uint64_t operations = 2 * rows * outFeatures * inFeatures;
  (info->isPacked()                  ? work.int8_operations
   : info->id == MOEPLAN_FORMAT_BF16 ? work.bf16_operations
                                     : work.f32_operations) = operations;
  return work;
}

/// The scales of a norm, where there is one and a row to normalise.
moeplan_work norm(uint64_t rows, uint64_t features, bool normalize) {
  moeplan_work work{};
  if (rows > 0 && normalize)
    work.weight_bytes = features * sizeof(float);
  return work;
}

moeplan_work sum(std::initializer_list<moeplan_work> parts) {
  moeplan_work total{};
  for (const moeplan_work &part : parts)
    addWork(total, part);
  return total;
}

moeplan_work embedding(const Call &call) {
  const auto *tokens = call.operand<int32_t>(0);
  const std::set<int32_t> distinct(tokens, tokens + call.step.token_count);
  const FormatInfo *format = findFormat(static_cast<uint32_t>(call.constant("weight_format")));
  moeplan_work work{};
  if (format)
    work.weight_bytes = distinct.size() * formatRowBytes(*format, call.constant("features"));
  return work;
}

moeplan_work rmsNorm(const Call &call) {
  return norm(call.rows(), call.constant("features"), true);
}

moeplan_work operandRows(const Call &call) {
  return norm(call.rows(), call.constant("features"), call.constant("normalize") != 0);
}

/// `linear`, `vector_linear` with its norm, and `linear_prompt`.
moeplan_work linear(const Call &call) {
  return sum({product(call.rows(), call.constant("out_features"), call.constant("in_features"),
                      call.constant("weight_format")),
              norm(call.rows(), call.constant("in_features"), call.constant("normalize") != 0)});
}

moeplan_work vectorQkv(const Call &call) {
  const uint64_t columns = call.constant("in_features"), format = call.constant("weight_format");
  const moeplan_work key = product(1, call.constant("kv_features"), columns, format);
  return sum({product(1, call.constant("q_features"), columns, format), key, key,
              norm(1, columns, call.constant("normalize") != 0)});
}

/// The same on a cuda device, for any number of tokens.
moeplan_work qkv(const Call &call) {
  const uint64_t columns = call.constant("in_features"), format = call.constant("weight_format");
  const uint64_t dim = call.constant("head_dim");
  const moeplan_work key =
      product(call.rows(), call.constant("num_kv_heads") * dim, columns, format);
  return sum({product(call.rows(), call.constant("num_heads") * dim, columns, format), key, key,
              norm(call.rows(), columns, call.constant("normalize") != 0)});
}

/// Scores against every position that a token may see, and the sum of their values. What splitting
/// float32 queries into pairs of bf16 costs on top is the kernel's own affair and not counted.
moeplan_work attention(const Call &call) {
  const bool onCuda = call.kernel.machine() == fb::Machine::cuda; // whose cache is bf16
  const uint64_t kvFormat = onCuda ? uint64_t(MOEPLAN_KV_BF16) : call.constant("kv_format");
  const uint64_t dim = call.constant("head_dim");
  const uint64_t window = call.constant("sliding_window");
  auto firstSeen = [&](uint64_t end) { return window && end > window ? end - window : 0; };
  moeplan_work work{};
  if (call.rows() == 0)
    return work;
  uint64_t seen = 0; // (token, position) pairs
  for (uint64_t row = call.firstRow(); row < call.step.token_count; ++row) {
    const uint64_t end = call.step.position + row + 1;
    seen += end - firstSeen(end);
  }
  const uint64_t operations = 4 * seen * call.constant("num_heads") * dim;
  (kvFormat == MOEPLAN_KV_BF16 ? work.bf16_operations : work.f32_operations) = operations;
  const uint64_t positions = call.step.position + call.step.token_count -
                             firstSeen(call.step.position + call.firstRow() + 1);
  work.cache_bytes =
      2 * positions * call.constant("num_kv_heads") *
      moeplan_kv_row_bytes(static_cast<unsigned>(kvFormat), static_cast<unsigned>(dim));
  return work;
}

/// `router` and `vector_router`.
moeplan_work router(const Call &call) {
  const uint64_t features = call.constant("features");
  return sum({product(call.rows(), call.constant("num_experts"), features, MOEPLAN_FORMAT_F32),
              norm(call.rows(), features, call.constant("normalize") != 0)});
}

/// Calls `count` for every routed expert with its table row and its number of slots.
template <typename Count> moeplan_work overRoutedExperts(const Call &call, Count &&count) {
  const auto *experts = call.operand<moeplan_expert>(1);
  const auto *begin = call.operand<uint32_t>(2);
  moeplan_work work{};
  for (uint64_t e = 0; e < call.constant("num_experts"); ++e)
    if (begin[e + 1] > begin[e]) {
      moeplan_work more = count(experts[e], begin[e + 1] - begin[e]);
      more.host_bytes = experts[e].on_host ? more.weight_bytes : 0;
      addWork(work, more);
    }
  return work;
}

moeplan_work expertsGateUp(const Call &call) {
  const uint64_t features = call.constant("features"), width = call.constant("intermediate");
  return overRoutedExperts(call, [&](const moeplan_expert &expert, uint64_t slots) {
    return sum({product(slots, width, features, expert.w1_format),
                product(slots, width, features, expert.w3_format)});
  });
}

moeplan_work expertsDown(const Call &call) {
  const uint64_t features = call.constant("features"), width = call.constant("intermediate");
  return overRoutedExperts(call, [&](const moeplan_expert &expert, uint64_t slots) {
    return product(slots, features, width, expert.w2_format);
  });
}

/// How the work of a micro-kernel follows from its constants, the step and its operands.
struct CountedKernel {
  std::string_view implementation;
  moeplan_work (*count)(const Call &call);
};

constexpr CountedKernel kCountedKernels[] = {
    {"embedding", embedding},
    {"rms_norm", rmsNorm},
    {"operand", operandRows},
    {"rounded_rows", operandRows},
    {"linear", linear},
    {"linear_prompt", linear},
    {"vector_linear", linear},
    {"vector_qkv", vectorQkv},
    {"qkv", qkv},
    {"qkv_prompt", qkv},
    {"attention", attention},
    {"attention_prompt", attention},
    {"vector_attention", attention},
    {"router", router},
    {"vector_router", router},
    {"experts_gate_up", expertsGateUp},
    {"experts_gate_up_prompt", expertsGateUp},
    {"experts_down", expertsDown},
    {"experts_down_prompt", expertsDown},
};

} // namespace

moeplan_work workOf(const fb::Kernel &kernel, std::span<void *const> operands,
                    const moeplan_step &step) {
  for (const CountedKernel &counted : kCountedKernels)
    if (counted.implementation == kernel.implementation()->string_view()) {
      moeplan_work work = counted.count({kernel, operands, step});
      if (kernel.machine() == fb::Machine::cuda) // which multiplies codes as bf16
        work.bf16_operations += std::exchange(work.int8_operations, 0);
      return work;
    }
  return {};
}

void addWork(moeplan_work &sum, const moeplan_work &more) {
  sum.weight_bytes += more.weight_bytes;
  sum.host_bytes += more.host_bytes;
  sum.cache_bytes += more.cache_bytes;
  sum.f32_operations += more.f32_operations;
  sum.bf16_operations += more.bf16_operations;
  sum.int8_operations += more.int8_operations;
}

} // namespace moeplan
