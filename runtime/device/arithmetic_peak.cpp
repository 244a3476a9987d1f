#include "runtime/device/arithmetic_peak.h"

#include "runtime/device/cpu_features.h"
#include "runtime/device/thread_pool.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string_view>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moeplan {

namespace {

/// Hides from the optimiser what a vector register holds.
#if defined(__x86_64__)
#define MOEPLAN_HIDE(vector) __asm__ volatile("" : "+x"(vector))
#elif defined(__aarch64__)
#define MOEPLAN_HIDE(vector) __asm__ volatile("" : "+w"(vector))
#else
#define MOEPLAN_HIDE(vector) __asm__ volatile("" : "+m"(vector))
#endif

/// Independent sums of a loop: as many as hide the latency of an instruction, up to 5 cycles, where
/// two begin in a cycle, and as leave room for the factors in 16 registers.
constexpr uint64_t kSums = 12;
#define MOEPLAN_EACH_SUM(STEP)                                                                     \
  STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11)
#define MOEPLAN_BEGIN(k)                                                                           \
  sums[k] = a;                                                                                     \
  MOEPLAN_HIDE(sums[k]);
#define MOEPLAN_END(k) MOEPLAN_HIDE(sums[k]);

/// A loop over registers: no index varies, or the compiler would keep the sums in memory. STEP(k)
/// adds products of `a` and `b` to sums[k]. Their bytes make numbers of middling size in every
/// format.
#define MOEPLAN_PEAK_LOOP(name, attribute, Vector, STEP)                                           \
  attribute void name(uint64_t iterations) {                                                       \
    Vector a, b, sums[kSums];                                                                      \
    std::memset(&a, 0x3f, sizeof(a));                                                              \
    std::memset(&b, 0x3f, sizeof(b));                                                              \
    MOEPLAN_EACH_SUM(MOEPLAN_BEGIN)                                                                \
    for (uint64_t i = 0; i < iterations; ++i) {                                                    \
      MOEPLAN_HIDE(a);                                                                             \
      MOEPLAN_EACH_SUM(STEP)                                                                       \
    }                                                                                              \
    MOEPLAN_EACH_SUM(MOEPLAN_END)                                                                  \
  }

// What the compiler makes of the baseline's vectors of 16 bytes. A product would be computed once
// for all sums if `a` did not seem to change.
typedef float FourFloats __attribute__((vector_size(16)));
typedef uint16_t EightShorts __attribute__((vector_size(16)));
#define MOEPLAN_STEP(k)                                                                            \
  MOEPLAN_HIDE(a);                                                                                 \
  sums[k] += a * b;
MOEPLAN_PEAK_LOOP(portableF32, , FourFloats, MOEPLAN_STEP)
MOEPLAN_PEAK_LOOP(portableInt8, , EightShorts, MOEPLAN_STEP)
#undef MOEPLAN_STEP

#if defined(__x86_64__)

#define MOEPLAN_TARGET(features) __attribute__((target(features)))

#define MOEPLAN_STEP(k) sums[k] = _mm512_fmadd_ps(a, b, sums[k]);
MOEPLAN_PEAK_LOOP(avx512F32, MOEPLAN_TARGET("avx512f"), __m512, MOEPLAN_STEP)
#undef MOEPLAN_STEP

#define MOEPLAN_STEP(k) sums[k] = _mm256_fmadd_ps(a, b, sums[k]);
MOEPLAN_PEAK_LOOP(avx2F32, MOEPLAN_TARGET("avx2,fma"), __m256, MOEPLAN_STEP)
#undef MOEPLAN_STEP

#define MOEPLAN_STEP(k) sums[k] = _mm512_dpbf16_ps(sums[k], (__m512bh)a, (__m512bh)b);
MOEPLAN_PEAK_LOOP(avx512Bf16, MOEPLAN_TARGET("avx512f,avx512bf16"), __m512, MOEPLAN_STEP)
#undef MOEPLAN_STEP

#define MOEPLAN_STEP(k) sums[k] = _mm512_dpbusd_epi32(sums[k], a, b);
MOEPLAN_PEAK_LOOP(avx512Int8, MOEPLAN_TARGET("avx512f,avx512vnni"), __m512i, MOEPLAN_STEP)
#undef MOEPLAN_STEP

#define MOEPLAN_STEP(k) sums[k] = _mm256_dpbusd_avx_epi32(sums[k], a, b);
MOEPLAN_PEAK_LOOP(avxVnniInt8, MOEPLAN_TARGET("avx2,avxvnni"), __m256i, MOEPLAN_STEP)
#undef MOEPLAN_STEP

// Three instructions, the first two of which would be computed once, too.
#define MOEPLAN_STEP(k)                                                                            \
  MOEPLAN_HIDE(a);                                                                                 \
  sums[k] = _mm256_add_epi32(sums[k],                                                              \
                             _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
MOEPLAN_PEAK_LOOP(avx2Int8, MOEPLAN_TARGET("avx2"), __m256i, MOEPLAN_STEP)
#undef MOEPLAN_STEP

#endif

/// A loop, what it needs of the CPU (empty: nothing) and how many multiplications and additions a
/// step of it does.
struct PeakLoop {
  moeplan_arithmetic arithmetic;
  std::array<std::string_view, 2> features;
  void (*run)(uint64_t iterations);
  uint64_t operations;

  bool available() const {
    return std::all_of(features.begin(), features.end(), [](std::string_view feature) {
      return feature.empty() || hasCpuFeature(feature);
    });
  }
};

/// The first one that is available counts. Without an instruction for bf16, float32 ones multiply
/// it.
constexpr PeakLoop kPeakLoops[] = {
#if defined(__x86_64__)
    {MOEPLAN_ARITHMETIC_F32, {"avx512f"}, avx512F32, 2 * 16},
    {MOEPLAN_ARITHMETIC_F32, {"avx2", "fma"}, avx2F32, 2 * 8},
    {MOEPLAN_ARITHMETIC_BF16, {"avx512f", "avx512bf16"}, avx512Bf16, 2 * 32},
    {MOEPLAN_ARITHMETIC_BF16, {"avx512f"}, avx512F32, 2 * 16},
    {MOEPLAN_ARITHMETIC_BF16, {"avx2", "fma"}, avx2F32, 2 * 8},
    {MOEPLAN_ARITHMETIC_INT8, {"avx512f", "avx512vnni"}, avx512Int8, 2 * 64},
    {MOEPLAN_ARITHMETIC_INT8, {"avx2", "avxvnni"}, avxVnniInt8, 2 * 32},
    {MOEPLAN_ARITHMETIC_INT8, {"avx2"}, avx2Int8, 2 * 32},
#endif
    {MOEPLAN_ARITHMETIC_F32, {}, portableF32, 2 * 4},
    {MOEPLAN_ARITHMETIC_BF16, {}, portableF32, 2 * 4},
    {MOEPLAN_ARITHMETIC_INT8, {}, portableInt8, 2 * 8},
};

/// Some milliseconds of a loop on every thread, in tiles small enough that a thread that comes late
/// finds some left.
class Pass : public Phases {
public:
  static constexpr uint64_t kIterations = 1 << 17;
  static constexpr uint32_t kTilesPerThread = 8;

  Pass(const PeakLoop &loop, uint32_t threads) : loop_(loop), tiles_(threads * kTilesPerThread) {}

  uint32_t count() const override { return 1; }
  uint32_t tiles(uint32_t) const override { return tiles_; }
  void run(uint32_t, TileRange range) override {
    for (uint32_t tile = range.begin; tile < range.end; ++tile)
      loop_.run(kIterations);
  }
  double operations() const {
    return static_cast<double>(kIterations * kSums * loop_.operations * tiles_);
  }

private:
  const PeakLoop &loop_;
  uint32_t tiles_;
};

} // namespace

Result<double> measureArithmeticPeak(moeplan_arithmetic arithmetic, unsigned threads,
                                     unsigned repetitions) {
  constexpr unsigned kMaxThreads = 1024; // as of a session
  if (threads == 0 || threads > kMaxThreads || repetitions == 0)
    return invalidArgument("a peak of arithmetic needs 1 to 1024 threads and a repetition");
  const auto *loop =
      std::find_if(std::begin(kPeakLoops), std::end(kPeakLoops), [&](const PeakLoop &row) {
        return row.arithmetic == arithmetic && row.available();
      });
  if (loop == std::end(kPeakLoops))
    return invalidArgument("there is no arithmetic " + std::to_string(arithmetic));
  ThreadPool pool(threads);
  Pass pass(*loop, pool.threads());
  double best = 0;
  for (unsigned i = 0; i < repetitions; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    pool.run(pass);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, pass.operations() / seconds.count());
  }
  return best;
}

} // namespace moeplan
