// What generated CUDA C++ finds when g++ compiles it for the emulated device.
//
// A block's threads are fibers of one host thread. Each runs on until a barrier, so a missing
// barrier shows: a thread sees shared memory that the others have not written yet, or have
// overwritten already. Shared memory begins every block as NaNs.
#ifndef CUDA_EMULATOR_EMULATOR_H_
#define CUDA_EMULATOR_EMULATOR_H_

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <type_traits>

struct EmulatorIndex {
  unsigned x, y, z;
};

// In the emulated driver, libcuda.so.1.
extern "C" {
extern EmulatorIndex emulator_thread, emulator_block, emulator_block_dim, emulator_grid_dim;
void emulator_sync_block(void);
// `site` tells barriers from each other: lanes that meet at two of them end the process.
void emulator_sync_warp(unsigned mask, int site);
// The values that the lanes of `mask` give, by lane.
const uint64_t* emulator_exchange(unsigned mask, uint64_t value, int site);
unsigned emulator_lane(void);
// Lanes of this warp that have not ended.
unsigned emulator_active(void);
void* emulator_dynamic_shared(void);
}

#define threadIdx emulator_thread
#define blockIdx emulator_block
#define blockDim emulator_block_dim
#define gridDim emulator_grid_dim
#define warpSize 32

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

static inline void __syncthreads() { emulator_sync_block(); }
static inline void EmulatorSyncWarp(int site, unsigned mask = 0xffffffffu) {
  emulator_sync_warp(mask, site);
}
static inline unsigned __activemask() { return emulator_active(); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <typename T>
static inline T EmulatorShuffle(int site, unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffled value has at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  const uint64_t* lanes = emulator_exchange(mask, bits, site);
  T result;
  memcpy(&result, &lanes[source], sizeof(T));
  emulator_sync_warp(mask, site);
  return result;
}

// Lanes are grouped by `width`; a source outside of the group means the lane's own value.
template <typename T>
static inline T EmulatorShfl(int site, unsigned mask, T value, int lane, int width = 32) {
  unsigned self = emulator_lane();
  unsigned group = self - self % width;
  return EmulatorShuffle(site, mask, value, group + static_cast<unsigned>(lane) % width);
}
template <typename T>
static inline T EmulatorShflUp(int site, unsigned mask, T value, unsigned delta, int width = 32) {
  unsigned self = emulator_lane();
  return EmulatorShuffle(site, mask, value, self % width < delta ? self : self - delta);
}
template <typename T>
static inline T EmulatorShflDown(int site, unsigned mask, T value, unsigned delta, int width = 32) {
  unsigned self = emulator_lane();
  return EmulatorShuffle(site, mask, value, self % width + delta >= unsigned(width) ? self : self + delta);
}
template <typename T>
static inline T EmulatorShflXor(int site, unsigned mask, T value, int lane_mask, int width = 32) {
  unsigned self = emulator_lane();
  unsigned source = self ^ static_cast<unsigned>(lane_mask);
  return EmulatorShuffle(site, mask, value, source / width > self / width ? self : source);
}
static inline unsigned EmulatorBallot(int site, unsigned mask, int predicate) {
  const uint64_t* lanes = emulator_exchange(mask, predicate != 0, site);
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) result |= unsigned(lanes[lane] != 0) << lane;
  }
  emulator_sync_warp(mask, site);
  return result;
}

// Every use in the source is a site.
#define __syncwarp(...) EmulatorSyncWarp(__COUNTER__, ##__VA_ARGS__)
#define __shfl_sync(...) EmulatorShfl(__COUNTER__, __VA_ARGS__)
#define __shfl_up_sync(...) EmulatorShflUp(__COUNTER__, __VA_ARGS__)
#define __shfl_down_sync(...) EmulatorShflDown(__COUNTER__, __VA_ARGS__)
#define __shfl_xor_sync(...) EmulatorShflXor(__COUNTER__, __VA_ARGS__)
#define __ballot_sync(...) EmulatorBallot(__COUNTER__, __VA_ARGS__)
#define __any_sync(...) (EmulatorBallot(__COUNTER__, __VA_ARGS__) != 0)
#define __all_sync(mask, predicate) (EmulatorBallot(__COUNTER__, mask, predicate) == (mask))

// One host thread runs all: atomic as it is.
template <typename T>
static inline T atomicAdd(T* address, T value) {
  T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
static inline T atomicMax(T* address, T value) {
  T old = *address;
  *address = old < value ? value : old;
  return old;
}
template <typename T>
static inline T atomicMin(T* address, T value) {
  T old = *address;
  *address = value < old ? value : old;
  return old;
}
template <typename T>
static inline T atomicCAS(T* address, T expected, T value) {
  T old = *address;
  if (old == expected) *address = value;
  return old;
}

template <typename T>
static inline T __ldg(const T* address) {
  return *address;
}

using std::max;
using std::min;
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
// glibc has functions of its own under these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
#define __tanhf(x) tanhf(x)
static inline float exp10(float x) { return powf(10.0f, x); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
static inline float __int_as_float(int x) {
  float y;
  memcpy(&y, &x, 4);
  return y;
}
static inline int __float_as_int(float x) {
  int y;
  memcpy(&y, &x, 4);
  return y;
}
static inline float __uint_as_float(unsigned x) { return __int_as_float(int(x)); }
static inline unsigned __float_as_uint(float x) { return unsigned(__float_as_int(x)); }

// CUDA's vector types, with its alignments: T1, T2, T3, T4 and make_T1 ... make_T4.
#define EMULATOR_VECTOR(T, name, align2, align4)                                             \
  struct name##1 { T x; };                                                                   \
  struct alignas(align2) name##2 { T x, y; };                                                \
  struct name##3 { T x, y, z; };                                                             \
  struct alignas(align4) name##4 { T x, y, z, w; };                                          \
  static inline name##1 make_##name##1(T x) { return {x}; }                                  \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                          \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                  \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATOR_VECTOR(signed char, char, 2, 4)
EMULATOR_VECTOR(unsigned char, uchar, 2, 4)
EMULATOR_VECTOR(short, short, 4, 8)
EMULATOR_VECTOR(unsigned short, ushort, 4, 8)
EMULATOR_VECTOR(int, int, 8, 16)
EMULATOR_VECTOR(unsigned, uint, 8, 16)
EMULATOR_VECTOR(long, long, 16, 16)
EMULATOR_VECTOR(unsigned long, ulong, 16, 16)
EMULATOR_VECTOR(long long, longlong, 16, 16)
EMULATOR_VECTOR(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTOR(float, float, 8, 16)
EMULATOR_VECTOR(double, double, 16, 16)
#undef EMULATOR_VECTOR

#endif  // CUDA_EMULATOR_EMULATOR_H_
