// The CPU micro-kernels, each alone on one thread, at the shapes of Mixtral 8x7B. Rates are by CPU
// time, so that other work on the machine takes nothing but caches and memory away.
#include "compiler/codegen/kernel_library.h"
#include "cpu/operand.h"
#include "formats.h"
#include "kv_formats.h"
#include "runtime/artifact/synthetic_generator.h"
#include "runtime/device/kernel_module.h"
#include "runtime/device/memory.h"

#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace moeplan::testing {
namespace {

using benchmark::Counter;
using benchmark::State;

constexpr int64_t kHidden = 4096, kIntermediate = 14336;
constexpr int64_t kHeads = 32, kKvHeads = 8, kHeadDim = 128;
constexpr double kEpsilon = 1e-5;

/// Weights that are read in turn take at least this much, so that they come from memory.
constexpr uint64_t kRotatingBytes = uint64_t(256) << 20;

template <typename T> T take(Result<T> result) {
  if (!result.ok())
    throw std::runtime_error(result.failure().message());
  return std::move(result).value();
}
template <typename T> T take(llvm::Expected<T> result) {
  if (!result)
    throw std::runtime_error(llvm::toString(result.takeError()));
  return std::move(*result);
}

/// A kernel compiled for this machine.
class Kernel {
public:
  using Constants = decltype(compiler::KernelSpec::constants);

  Kernel(const std::string &implementation, unsigned bindings, Constants constants) {
    const compiler::KernelSpec spec{"kernel", implementation, std::move(constants), bindings};
    const compiler::KernelLibrary library =
        take(compiler::compileKernels({spec}, take(compiler::resolveCpuTarget("host"))));
    module_ = take(KernelModule::load(std::as_bytes(std::span(library.elf))));
    function_ = take(module_->kernel("kernel"));
  }

  void operator()(std::initializer_list<const void *> bindings, const moeplan_step &step,
                  int64_t tiles) const {
    function_(const_cast<void *const *>(bindings.begin()), &step, 0, uint64_t(tiles));
  }

private:
  std::unique_ptr<KernelModule> module_;
  moeplan_kernel_fn function_;
};

/// Memory whose every byte is 0x3c: numbers of middling size in every format, and pages that are
/// not all the system's one page of zeros.
class Buffer {
public:
  explicit Buffer(uint64_t bytes) : memory_(take(HostMemory::allocate(bytes, "benchmark"))) {
    std::memset(memory_.data(), 0x3c, bytes);
  }
  void *data() const { return memory_.data(); }

private:
  HostMemory memory_;
};

/// Copies of a random weight [rows, columns], given out in turn.
class RotatingWeights {
public:
  RotatingWeights(const FormatInfo &format, int64_t rows, int64_t columns)
      : bytes_(*formatBytes(format, uint64_t(rows), uint64_t(columns))),
        count_((kRotatingBytes + bytes_ - 1) / bytes_),
        memory_(take(HostMemory::allocate(count_ * bytes_, "benchmark"))) {
    const SyntheticWeight weight{"w", &format, uint64_t(rows), uint64_t(columns), false};
    SyntheticGenerator generator(1);
    generator.prepare(weight);
    for (uint64_t i = 0; i < count_; ++i)
      generator.fill(weight, 0, {memory_.data() + i * bytes_, bytes_});
  }

  uint64_t bytes() const { return bytes_; }
  const void *next() { return memory_.data() + next_++ % count_ * bytes_; }

private:
  uint64_t bytes_, count_, next_ = 0;
  HostMemory memory_;
};

/// What a benchmark is measured with.
struct Setup {
  virtual ~Setup() = default;
};

std::string currentName;
std::unique_ptr<Setup> currentSetup;

/// The setup of benchmark `name`, made when it first runs and dropped when another one does: a
/// benchmark is called several times, and many may be filtered out.
template <typename Made, typename... Arguments>
Made &setupOf(const std::string &name, const Arguments &...arguments) {
  if (currentName != name) {
    currentSetup.reset();
    currentSetup = std::make_unique<Made>(arguments...);
    currentName = name;
  }
  return static_cast<Made &>(*currentSetup);
}

void setCounters(State &state, uint64_t bytes, uint64_t operations) {
  state.SetBytesProcessed(int64_t(bytes) * state.iterations());
  if (operations)
    state.counters["operations_per_second"] =
        Counter(double(operations), Counter::kIsIterationInvariantRate);
}

/// The compiler's choice (ProgramBuilder::rowsPerTile).
int64_t rowsPerTile(const FormatInfo &format, int64_t tokens) {
  constexpr int64_t kTileBytes = 128 << 10;
  const auto wanted = tokens > 1 ? 0 : kTileBytes / int64_t(formatRowBytes(format, kHidden));
  return std::max<int64_t>(wanted / MOEPLAN_TILE_ROWS * MOEPLAN_TILE_ROWS, MOEPLAN_TILE_ROWS);
}

struct Linear : Setup {
  Linear(const FormatInfo &format, int64_t tokens, bool vector)
      : form(moeplan_form_of(format.id)), rows(rowsPerTile(format, tokens)),
        kernel(vector ? "vector_linear" : "linear", vector ? 4 : 3,
               constants(format, form, rows, vector)),
        weights(format, kIntermediate, kHidden),
        x(uint64_t(tokens * std::max<int64_t>(moeplan_operand_bytes(form, kHidden), kHidden * 4))),
        y(uint64_t(tokens * kIntermediate * 4)) {}

  static Kernel::Constants constants(const FormatInfo &format, int64_t form, int64_t rows,
                                     bool vector) {
    Kernel::Constants all{{"in_features", kHidden},     {"out_features", kIntermediate},
                          {"weight_format", format.id}, {"rows_per_tile", rows},
                          {"accumulate", int64_t(0)},   {"logits_rows", int64_t(0)},
                          {"prefetch", int64_t(0)}};
    if (vector)
      all.insert(all.end(), {{"normalize", int64_t(1)}, {"epsilon", kEpsilon}});
    else
      all.push_back({"x_forms", form});
    return all;
  }

  int64_t form, rows;
  Kernel kernel;
  RotatingWeights weights;
  Buffer x, y;
};

void linear(State &state, const std::string &name, const FormatInfo &format, int64_t tokens,
            bool vector) {
  Linear &setup = setupOf<Linear>(name, format, tokens, vector);
  const moeplan_step step{uint32_t(tokens), 0, 0, 0};
  const int64_t tiles = (kIntermediate + setup.rows - 1) / setup.rows;
  for ([[maybe_unused]] auto _ : state)
    if (vector)
      setup.kernel({setup.x.data(), setup.x.data(), setup.weights.next(), setup.y.data()}, step,
                   tiles);
    else
      setup.kernel({setup.x.data(), setup.weights.next(), setup.y.data()}, step, tiles);
  setCounters(state, setup.weights.bytes(), uint64_t(2 * tokens * kHidden * kIntermediate));
}

/// A kernel that makes rows of other rows [tokens, kHidden]; a tile is a token.
struct RowKernel : Setup {
  RowKernel(const char *implementation, const Kernel::Constants &constants, int64_t tokens)
      : kernel(implementation, 3, constants), x(uint64_t(tokens * kHidden * 4)),
        scale(uint64_t(kHidden * 4)), out(uint64_t(tokens * kHidden * 8)) {}

  Kernel kernel;
  Buffer x, scale, out;
};

void rows(State &state, const std::string &name, const char *implementation,
          const Kernel::Constants &constants, int64_t tokens) {
  RowKernel &setup = setupOf<RowKernel>(name, implementation, constants, tokens);
  const moeplan_step step{uint32_t(tokens), 0, 0, 0};
  for ([[maybe_unused]] auto _ : state)
    setup.kernel({setup.x.data(), setup.scale.data(), setup.out.data()}, step, tokens);
  setCounters(state, uint64_t(tokens * kHidden * 4), 0);
}

struct Attention : Setup {
  Attention(const KvFormatInfo &format, int64_t position, int64_t tokens)
      : kernel(tokens > 1 ? "attention" : "vector_attention", tokens > 1 ? 4 : 7,
               constants(format, tokens)),
        capacity(kvCapacity(uint64_t(position + tokens))),
        keys(*kvLayerBytes(format.id, capacity, kKvHeads, kHeadDim)),
        values(*kvLayerBytes(format.id, capacity, kKvHeads, kHeadDim)), q(rowsBytes(tokens)),
        k(rowsBytes(tokens)), v(rowsBytes(tokens)), rope(rowsBytes(tokens)),
        out(rowsBytes(tokens)) {}

  static uint64_t rowsBytes(int64_t tokens) { return uint64_t(tokens * kHeads * kHeadDim * 4); }
  static Kernel::Constants constants(const KvFormatInfo &format, int64_t tokens) {
    Kernel::Constants all{{"num_heads", kHeads},          {"num_kv_heads", kKvHeads},
                          {"head_dim", kHeadDim},         {"kv_format", format.id},
                          {"sliding_window", int64_t(0)}, {"logits_rows", int64_t(0)}};
    if (tokens > 1)
      all.push_back({"tokens_per_tile", kTokensPerTile});
    return all;
  }

  static constexpr int64_t kTokensPerTile = 64 / (kHeads / kKvHeads); // as the compiler has it
  Kernel kernel;
  uint64_t capacity;
  Buffer keys, values, q, k, v, rope, out;
};

void attention(State &state, const std::string &name, const KvFormatInfo &format, int64_t position,
               int64_t tokens) {
  Attention &setup = setupOf<Attention>(name, format, position, tokens);
  const moeplan_step step{uint32_t(tokens), 0, uint64_t(position), setup.capacity};
  constexpr int64_t kTile = Attention::kTokensPerTile;
  for ([[maybe_unused]] auto _ : state)
    if (tokens > 1)
      setup.kernel({setup.q.data(), setup.keys.data(), setup.values.data(), setup.out.data()}, step,
                   (tokens + kTile - 1) / kTile * kKvHeads);
    else
      setup.kernel({setup.q.data(), setup.k.data(), setup.v.data(), setup.rope.data(),
                    setup.keys.data(), setup.values.data(), setup.out.data()},
                   step, kKvHeads);
  const int64_t seen = tokens * position + tokens * (tokens + 1) / 2;
  setCounters(state,
              uint64_t(2 * (position + tokens) * kKvHeads) *
                  moeplan_kv_row_bytes(format.id, kHeadDim),
              uint64_t(4 * seen * kHeads * kHeadDim));
}

template <typename Function, typename... Arguments>
void add(const std::string &name, Function function, Arguments... arguments) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](State &state) { function(state, name, arguments...); });
}

void addLinear() {
  for (const char *name : {"f32", "bf16", "int8g64", "int4g32", "int4g64", "int3g32", "int2g32"}) {
    const FormatInfo &format = *findFormat(name);
    add(std::string("vector_linear/") + name, linear, format, int64_t(1), true);
    for (int64_t tokens : {1, 8, 64})
      add(std::string("linear/") + name + "/tokens:" + std::to_string(tokens), linear, format,
          tokens, false);
  }
}

void addRows() {
  const std::pair<const char *, int64_t> forms[] = {
      {"f32", MOEPLAN_FORM_F32}, {"bf16", MOEPLAN_FORM_BF16}, {"q8", MOEPLAN_FORM_Q8}};
  for (int64_t tokens : {1, 64}) {
    const std::string suffix = "/tokens:" + std::to_string(tokens);
    for (const auto &[name, form] : forms)
      add(std::string("operand/") + name + suffix, rows, "operand",
          Kernel::Constants{{"features", kHidden},
                            {"normalize", int64_t(1)},
                            {"epsilon", kEpsilon},
                            {"forms", form},
                            {"logits_rows", int64_t(0)}},
          tokens);
    add("rms_norm" + suffix, rows, "rms_norm",
        Kernel::Constants{
            {"features", kHidden}, {"epsilon", kEpsilon}, {"logits_rows", int64_t(0)}},
        tokens);
  }
}

void addAttention() {
  for (const KvFormatInfo &format : kKvFormats)
    for (int64_t position : {512, 4096})
      for (int64_t tokens : {1, 64}) {
        const std::string suffix =
            std::string(format.name) + "/position:" + std::to_string(position);
        add(tokens > 1 ? "attention/" + suffix + "/tokens:" + std::to_string(tokens)
                       : "vector_attention/" + suffix,
            attention, format, position, tokens);
      }
}

} // namespace
} // namespace moeplan::testing

int main(int argc, char **argv) {
  moeplan::testing::addLinear();
  moeplan::testing::addRows();
  moeplan::testing::addAttention();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv))
    return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
