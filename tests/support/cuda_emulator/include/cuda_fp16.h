// CUDA's half: arithmetic rounds to 16 bits after every operation, as the device does.
#ifndef CUDA_EMULATOR_FP16_H_
#define CUDA_EMULATOR_FP16_H_

#include "emulator.h"

struct __half {
  _Float16 value;

  __half() = default;
  __half(float x) : value(static_cast<_Float16>(x)) {}
  __half(double x) : value(static_cast<_Float16>(x)) {}
  __half(int x) : value(static_cast<_Float16>(x)) {}
  __half(unsigned x) : value(static_cast<_Float16>(x)) {}
  __half(long x) : value(static_cast<_Float16>(x)) {}
  __half(unsigned long x) : value(static_cast<_Float16>(x)) {}
  __half(long long x) : value(static_cast<_Float16>(x)) {}
  __half(unsigned long long x) : value(static_cast<_Float16>(x)) {}
  __half(short x) : value(static_cast<_Float16>(x)) {}
  __half(unsigned short x) : value(static_cast<_Float16>(x)) {}
  operator float() const { return static_cast<float>(value); }
};
typedef __half half;

struct alignas(4) __half2 {
  __half x, y;
};
typedef __half2 half2;

#define EMULATOR_ARITHMETIC(op)                                                               \
  static inline __half operator op(__half a, __half b) { return float(a) op float(b); }       \
  static inline __half& operator op##=(__half& a, __half b) { return a = a op b; }
EMULATOR_ARITHMETIC(+)
EMULATOR_ARITHMETIC(-)
EMULATOR_ARITHMETIC(*)
EMULATOR_ARITHMETIC(/)
#undef EMULATOR_ARITHMETIC
static inline __half operator-(__half a) { return -float(a); }

#define EMULATOR_COMPARISON(op, name)                                                         \
  static inline bool operator op(__half a, __half b) { return float(a) op float(b); }         \
  static inline bool name(__half a, __half b) { return a op b; }
EMULATOR_COMPARISON(<, __hlt)
EMULATOR_COMPARISON(<=, __hle)
EMULATOR_COMPARISON(>, __hgt)
EMULATOR_COMPARISON(>=, __hge)
EMULATOR_COMPARISON(==, __heq)
EMULATOR_COMPARISON(!=, __hne)
#undef EMULATOR_COMPARISON

static inline float __half2float(__half x) { return x; }
static inline __half __float2half(float x) { return x; }
static inline __half __float2half_rn(float x) { return x; }
static inline __half __hadd(__half a, __half b) { return a + b; }
static inline __half __hsub(__half a, __half b) { return a - b; }
static inline __half __hmul(__half a, __half b) { return a * b; }
static inline __half __hdiv(__half a, __half b) { return a / b; }
static inline __half __hneg(__half a) { return -a; }
static inline __half __habs(__half a) { return fabsf(a); }
static inline __half __hmax(__half a, __half b) { return fmaxf(a, b); }
static inline __half __hmin(__half a, __half b) { return fminf(a, b); }
static inline bool __hisnan(__half a) { return isnan(float(a)); }
static inline __half __hfma(__half a, __half b, __half c) { return fmaf(a, b, c); }
static inline __half hexp(__half x) { return expf(x); }
static inline __half hexp2(__half x) { return exp2f(x); }
static inline __half hexp10(__half x) { return exp10(x); }
static inline __half hlog(__half x) { return logf(x); }
static inline __half hlog2(__half x) { return log2f(x); }
static inline __half hlog10(__half x) { return log10f(x); }
static inline __half hsqrt(__half x) { return sqrtf(x); }
static inline __half hrsqrt(__half x) { return rsqrtf(x); }
static inline __half hrcp(__half x) { return 1.0f / float(x); }
static inline __half hfloor(__half x) { return floorf(x); }
static inline __half hceil(__half x) { return ceilf(x); }
static inline __half htrunc(__half x) { return truncf(x); }
static inline __half hrint(__half x) { return rintf(x); }
static inline __half hsin(__half x) { return sinf(x); }
static inline __half hcos(__half x) { return cosf(x); }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 make_half2(__half x, __half y) { return {x, y}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
static inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
static inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline unsigned short __half_as_ushort(__half x) {
  unsigned short bits;
  memcpy(&bits, &x, 2);
  return bits;
}
static inline __half __ushort_as_half(unsigned short bits) {
  __half x;
  memcpy(&x, &bits, 2);
  return x;
}

#endif  // CUDA_EMULATOR_FP16_H_
