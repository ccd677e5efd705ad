#include "roofline.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "burnish_runtime.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace burnish {
namespace {

using Clock = std::chrono::steady_clock;

// Steps between two looks at the clock.
constexpr int kSteps = 4096;
// Chains of dependent instructions: well above latency times throughput, since with just enough of
// them a CPU does not reach its limit. AVX2 has 16 registers, the others 32.
constexpr int kFewChains = 13;
constexpr int kManyChains = 24;

// Runs kSteps steps and returns their operations.
using Kernel = double (*)();

// A kernel of independent chains `acc = STEP`. They are variables, not an array, which would lie in
// memory. The empty statement tells the compiler that each changes in a way that it does not know, so
// that it neither merges nor drops steps.
#define BURNISH_FEW_CHAINS(DO) \
  DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12)
#define BURNISH_MANY_CHAINS(DO)                                                        \
  BURNISH_FEW_CHAINS(DO) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) \
  DO(22) DO(23)
#define BURNISH_DECLARE(N) Register acc##N = zero;
#define BURNISH_STEP(N)                 \
  acc##N = BURNISH_MULTIPLY_ADD(acc##N); \
  __asm__ volatile("" : BURNISH_REGISTER(acc##N));
#define BURNISH_KERNEL_BODY(CHAINS, COUNT, TYPE, ZERO, OPERATIONS)          \
  {                                                                         \
    using Register = TYPE;                                                  \
    const Register zero = ZERO;                                             \
    CHAINS(BURNISH_DECLARE)                                                 \
    for (int i = 0; i < kSteps; ++i) {                                      \
      CHAINS(BURNISH_STEP)                                                  \
    }                                                                       \
    return static_cast<double>(OPERATIONS) * COUNT * kSteps;                \
  }
#define BURNISH_WITH_FEW(TYPE, ZERO, OPERATIONS) \
  BURNISH_KERNEL_BODY(BURNISH_FEW_CHAINS, kFewChains, TYPE, ZERO, OPERATIONS)
#define BURNISH_WITH_MANY(TYPE, ZERO, OPERATIONS) \
  BURNISH_KERNEL_BODY(BURNISH_MANY_CHAINS, kManyChains, TYPE, ZERO, OPERATIONS)

#if defined(__x86_64__)
#define BURNISH_REGISTER "+v"
#define BURNISH_MULTIPLY_ADD(ACC) \
  _mm512_fmadd_ps(ACC, _mm512_set1_ps(0.5f), _mm512_set1_ps(1.0f))
__attribute__((target("avx512f"))) double Float32Avx512()
    BURNISH_WITH_MANY(__m512, _mm512_setzero_ps(), 32)
#undef BURNISH_MULTIPLY_ADD
#define BURNISH_MULTIPLY_ADD(ACC) \
  _mm256_fmadd_ps(ACC, _mm256_set1_ps(0.5f), _mm256_set1_ps(1.0f))
__attribute__((target("avx2,fma"))) double Float32Avx2()
    BURNISH_WITH_FEW(__m256, _mm256_setzero_ps(), 16)
#undef BURNISH_MULTIPLY_ADD
#define BURNISH_MULTIPLY_ADD(ACC)                               \
  _mm512_dpbf16_ps(ACC, (__m512bh)_mm512_set1_epi32(0x3f803f80), \
                   (__m512bh)_mm512_set1_epi32(0x3f003f00))
__attribute__((target("avx512f,avx512bf16"))) double BFloat16Avx512()
    BURNISH_WITH_MANY(__m512, _mm512_setzero_ps(), 64)
#undef BURNISH_MULTIPLY_ADD
#define BURNISH_MULTIPLY_ADD(ACC) \
  _mm512_dpbusd_epi32(ACC, _mm512_set1_epi8(3), _mm512_set1_epi8(-1))
__attribute__((target("avx512f,avx512vnni"))) double Int8Avx512()
    BURNISH_WITH_MANY(__m512i, _mm512_setzero_si512(), 128)

Kernel KernelOf(Arithmetic kind) {
  bool avx512 = __builtin_cpu_supports("avx512f");
  switch (kind) {
    case Arithmetic::kFloat32:
      if (avx512) return Float32Avx512;
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Float32Avx2 : nullptr;
    case Arithmetic::kBFloat16:
      return avx512 && __builtin_cpu_supports("avx512bf16") ? BFloat16Avx512 : nullptr;
    case Arithmetic::kInt8:
      return avx512 && __builtin_cpu_supports("avx512vnni") ? Int8Avx512 : nullptr;
  }
  return nullptr;
}
#elif defined(__aarch64__)
#define BURNISH_REGISTER "+w"
#define BURNISH_MULTIPLY_ADD(ACC) vfmaq_f32(vdupq_n_f32(1.0f), ACC, vdupq_n_f32(0.5f))
double Float32Neon() BURNISH_WITH_MANY(float32x4_t, vdupq_n_f32(0.0f), 8)

Kernel KernelOf(Arithmetic kind) {
  return kind == Arithmetic::kFloat32 ? Float32Neon : nullptr;
}
#else
Kernel KernelOf(Arithmetic) { return nullptr; }
#endif

// The sum of the amounts that `body(thread)` returns, called again and again by `threads` threads for
// `seconds`, over the time that the slowest of them took.
template <typename Body>
double Rate(int threads, double seconds, Body body) {
  std::vector<double> rates(threads);
  std::atomic<int> waiting{threads};
  auto work = [&](int thread) {
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    double amount = 0, elapsed = 0;
    auto start = Clock::now();
    do {
      amount += body(thread);
      elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    } while (elapsed < seconds);
    rates[thread] = amount / elapsed;
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
  work(0);
  for (std::thread& other : others) other.join();
  double sum = 0;
  for (double rate : rates) sum += rate;
  return sum;
}

#if defined(__x86_64__)
#define BURNISH_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define BURNISH_CLONES
#endif

// The sum of 64-bit words, in enough chains that only memory limits it. They are variables for the
// reason of BURNISH_CHAINS.
BURNISH_CLONES uint64_t Sum(const uint64_t* words, std::size_t count) {
  typedef uint64_t V __attribute__((vector_size(64)));
  typedef uint64_t Unaligned __attribute__((vector_size(64), aligned(8), may_alias));
  V acc0 = {}, acc1 = {}, acc2 = {}, acc3 = {};
  for (std::size_t i = 0; i + 32 <= count; i += 32) {
    const Unaligned* next = reinterpret_cast<const Unaligned*>(words + i);
    acc0 += next[0];
    acc1 += next[1];
    acc2 += next[2];
    acc3 += next[3];
  }
  V sum = acc0 + acc1 + acc2 + acc3;
  uint64_t total = 0;
  for (int i = 0; i < 8; ++i) total += sum[i];
  return total;
}

}  // namespace

double ArithmeticRate(Arithmetic kind, int threads, double seconds) {
  Kernel kernel = KernelOf(kind);
  if (kernel == nullptr) return 0;
  return Rate(threads, seconds, [kernel](int) { return kernel(); });
}

double ReadBandwidth(int threads, std::size_t bytes, double seconds) {
  // Slices between looks at the clock.
  constexpr std::size_t kSlice = std::size_t{1} << 17;  // words
  std::size_t words = std::max(bytes / sizeof(uint64_t) / threads / kSlice, std::size_t{1}) * kSlice;
  std::vector<std::unique_ptr<uint64_t[]>> memory(threads);
  // Each thread's own numbers, so that the system gives it pages of its own.
  for (auto& part : memory) {
    part.reset(new uint64_t[words]);
    for (std::size_t i = 0; i < words; ++i) part[i] = i;
  }
  std::vector<std::size_t> at(threads);
  std::atomic<uint64_t> sink{0};
  return Rate(threads, seconds, [&](int thread) {
    std::size_t from = at[thread];
    at[thread] = from + kSlice < words ? from + kSlice : 0;
    sink.store(Sum(memory[thread].get() + from, kSlice), std::memory_order_relaxed);
    return static_cast<double>(kSlice * sizeof(uint64_t));
  });
}

}  // namespace burnish

extern "C" {

double burnish_arithmetic_rate(int32_t kind, int32_t threads, double seconds) {
  return burnish::ArithmeticRate(static_cast<burnish::Arithmetic>(kind), threads, seconds);
}

double burnish_read_bandwidth(int32_t threads, int64_t bytes, double seconds) {
  return burnish::ReadBandwidth(threads, static_cast<std::size_t>(bytes), seconds);
}

}  // extern "C"
