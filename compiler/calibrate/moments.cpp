#include "compiler/calibrate/moments.h"

#include "compiler/quantize/lanes.h"
#include "cpu/operand.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

uint64_t padded(uint64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

/// Rows of the triangle that are computed together: each load of a vector serves all of them.
constexpr uint64_t kRowTile = 4;

/// sums[i][j] += sum_t x[t][i] x[t][j] for j <= i, x [count][stride] from a block's first column
/// on.
template <typename F>
MOEPLAN_LANES_INLINE void addOuterProductsBy(const float *x, uint64_t stride, uint64_t count,
                                             uint64_t size, float *sums) {
  const uint64_t width = padded(size);
  for (uint64_t i = 0; i < size; i += kRowTile) {
    const uint64_t rows = std::min(kRowTile, size - i);
    for (uint64_t j = 0; j <= i + rows - 1; j += kRowsOf<F>) {
      F sum[kRowTile] = {};
      for (uint64_t t = 0; t < count; ++t) {
        const float *vector = x + t * stride;
        F columns;
        std::memcpy(&columns, vector + j, sizeof(columns));
        for (uint64_t r = 0; r < kRowTile; ++r)
          sum[r] += columns * vector[i + (r < rows ? r : 0)];
      }
      for (uint64_t r = 0; r < rows; ++r) {
        F before;
        std::memcpy(&before, sums + (i + r) * width + j, sizeof(before));
        before += sum[r];
        std::memcpy(sums + (i + r) * width + j, &before, sizeof(before));
      }
    }
  }
}
MOEPLAN_BY_INSTRUCTION_SET(
    addOuterProducts, (const float *x, uint64_t stride, uint64_t count, uint64_t size, float *sums),
    (x, stride, count, size, sums), addOuterProductsBy<F>(x, stride, count, size, sums))

} // namespace

MomentSum::MomentSum(uint64_t columns, uint64_t block)
    : columns_(columns), block_(block), sums_(bytes(columns, block) / sizeof(float)) {}

uint64_t MomentSum::bytes(uint64_t columns, uint64_t block) {
  if (block == 1)
    return columns * sizeof(float);
  return (columns + block - 1) / block * block * padded(block) * sizeof(float);
}

void MomentSum::add(const float *values, uint64_t stride, const uint32_t *rows,
                    const float *factors, uint64_t count) {
  if (count == 0)
    return;
  const uint64_t width = padded(columns_);
  std::vector<float> x(count * width);
  for (uint64_t t = 0; t < count; ++t) {
    const float *vector = values + (rows ? rows[t] : t) * stride;
    for (uint64_t k = 0; k < columns_; ++k)
      x[t * width + k] = vector[k] * factors[t];
  }
  if (block_ == 1) {
    for (uint64_t t = 0; t < count; ++t)
      for (uint64_t k = 0; k < columns_; ++k)
        sums_[k] += x[t * width + k] * x[t * width + k];
    return;
  }
  const uint64_t blockFloats = block_ * padded(block_);
  for (uint64_t begin = 0, b = 0; begin < columns_; begin += block_, ++b) {
    // The last block has the others' row length.
    const uint64_t size = std::min(block_, columns_ - begin);
    if (padded(size) == padded(block_)) {
      addOuterProducts(x.data() + begin, width, count, size, sums_.data() + b * blockFloats);
      continue;
    }
    std::vector<float> part(size * padded(size));
    addOuterProducts(x.data() + begin, width, count, size, part.data());
    for (uint64_t i = 0; i < size; ++i)
      for (uint64_t j = 0; j <= i; ++j)
        sums_[b * blockFloats + i * padded(block_) + j] += part[i * padded(size) + j];
  }
}

bool MomentSum::isFinite() const {
  return std::all_of(sums_.begin(), sums_.end(), [](float sum) { return std::isfinite(sum); });
}

std::vector<float> MomentSum::triangles() const {
  if (block_ == 1)
    return sums_;
  std::vector<float> out;
  const uint64_t width = padded(block_);
  for (uint64_t begin = 0, b = 0; begin < columns_; begin += block_, ++b)
    for (uint64_t i = 0; i < std::min(block_, columns_ - begin); ++i) {
      const float *row = sums_.data() + (b * block_ + i) * width;
      out.insert(out.end(), row, row + i + 1);
    }
  return out;
}

namespace {

/// Floats from one operand row to the next, with the forms and the columns that the kernel's
/// constants name. The runtime has checked the types of constants, the compiler made them.
uint64_t floatsPerRow(const fb::Kernel &kernel, std::string_view forms, std::string_view columns) {
  auto constant = [&](std::string_view name) -> int64_t {
    for (const fb::Constant *each : *kernel.constants())
      if (each->name()->string_view() == name)
        return each->integer();
    return 0;
  };
  return uint64_t(moeplan_operand_bytes(constant(forms), constant(columns))) / sizeof(float);
}

} // namespace

MomentCollector::MomentCollector(const Artifact &artifact, uint64_t inputBlock,
                                 uint64_t hiddenBlock, llvm::ThreadPoolInterface &threads)
    : numExperts_(artifact.model().num_experts()), threads_(threads) {
  for (const fb::Kernel *kernel : *artifact.metadata().kernels()) {
    const std::string_view name = kernel->implementation()->string_view();
    KernelRole role;
    role.slotWeights = name == "group_by_expert" ? 4 : name == "vector_router" ? 5 : -1;
    role.isGateUp = name == "experts_gate_up";
    if (role.isGateUp) {
      role.inputStride = floatsPerRow(*kernel, "x_forms", "features");
      role.hiddenStride = floatsPerRow(*kernel, "h_forms", "intermediate");
    }
    roles_.push_back(role);
  }
  const fb::Model &model = artifact.model();
  const uint64_t count = uint64_t(model.num_layers()) * numExperts_;
  experts_.reserve(count);
  for (uint64_t i = 0; i < count; ++i)
    experts_.emplace_back(model.hidden_size(), model.intermediate_size(), inputBlock, hiddenBlock);
}

void MomentCollector::afterDispatch(const fb::Dispatch &dispatch, std::span<void *const> operands,
                                    const moeplan_step &) {
  const KernelRole &role = roles_[dispatch.kernel()];
  if (role.slotWeights >= 0)
    slotWeight_ = static_cast<const float *>(operands[role.slotWeights]);
  if (!role.isGateUp)
    return;
  // x, the expert table, expert_begin, slot_token, h. The float32 form of an operand comes first.
  // The slots' weights are still where they were put, since the down projection has yet to read
  // them.
  const auto *x = static_cast<const float *>(operands[0]);
  const uint32_t layer = dispatch.bindings()->Get(1)->index();
  const auto *begin = static_cast<const uint32_t *>(operands[2]);
  const auto *slotToken = static_cast<const uint32_t *>(operands[3]);
  const auto *h = static_cast<const float *>(operands[4]);
  llvm::ThreadPoolTaskGroup group(threads_);
  for (uint32_t e = 0; e < numExperts_; ++e) {
    const uint32_t first = begin[e], count = begin[e + 1] - first;
    if (count == 0)
      continue;
    Expert &expert = experts_[layer * numExperts_ + e];
    const float *weights = slotWeight_ + first;
    expert.tokens += count;
    for (uint32_t i = 0; i < count; ++i)
      expert.routingWeight += double(weights[i]);
    group.async([&expert, &role, x, slotToken, first, weights, count] {
      expert.input.add(x, role.inputStride, slotToken + first, weights, count);
    });
    group.async([&expert, &role, h, first, weights, count] {
      expert.hidden.add(h + first * role.hiddenStride, role.hiddenStride, nullptr, weights, count);
    });
  }
  group.wait();
}

MomentBlocks moeplan::compiler::chooseMomentBlocks(uint64_t hiddenSize, uint64_t intermediateSize,
                                                   uint64_t experts, uint64_t memoryLimit) {
  auto fits = [&](MomentBlocks blocks) {
    return (MomentSum::bytes(hiddenSize, blocks.input) +
            MomentSum::bytes(intermediateSize, blocks.hidden)) <= memoryLimit / experts;
  };
  const MomentBlocks full{hiddenSize, intermediateSize};
  if (fits(full))
    return full;
  for (uint64_t width = 8192; width >= 128; width /= 2) {
    const MomentBlocks blocks{std::min(width, hiddenSize), std::min(width, intermediateSize)};
    if (fits(blocks))
      return blocks;
  }
  return {1, 1};
}
