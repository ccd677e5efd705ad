// nvcuda::wmma: the 16x16 result is spread over the lanes, 8 neighbouring elements of a row each.
//
// A lane holds of the operands what its 8 results need: one row of A, 8 columns of B. That differs
// from the hardware, whose layout is unspecified, so only what is portable works here as well:
// whole fragments, and the same function of every element.
#ifndef CUDA_EMULATOR_MMA_H_
#define CUDA_EMULATOR_MMA_H_

#include "cuda_fp16.h"

namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <typename Use, int M, int N, int K>
constexpr int EmulatorElements() {
  if (std::is_same<Use, matrix_a>::value) return K;
  if (std::is_same<Use, matrix_b>::value) return K * (M * N / 32);
  return M * N / 32;
}

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static constexpr int num_elements = EmulatorElements<Use, M, N, K>();
  T x[num_elements];
};

// The 8 results of this lane.
template <int M, int N>
struct EmulatorPart {
  static constexpr int kWidth = M * N / 32;
  static_assert(N % kWidth == 0, "a lane's results lie in one row");
  int row, column;
  EmulatorPart() {
    int first = static_cast<int>(emulator_lane()) * kWidth;
    row = first / N;
    column = first % N;
  }
};

// Checks what the hardware demands: the pointer of 32 bytes, the leading dimension of 16.
template <typename T>
static inline void EmulatorCheck(const T* pointer, unsigned leading) {
  if (reinterpret_cast<uintptr_t>(pointer) % 32 != 0 || leading * sizeof(T) % 16 != 0) {
    __builtin_trap();
  }
}

template <typename T, typename Use, int M, int N, int K, typename F, typename Layout>
static inline void load_matrix_sync(fragment<Use, M, N, K, F, Layout>& into, const T* from,
                                    unsigned leading) {
  EmulatorCheck(from, leading);
  EmulatorPart<M, N> part;
  constexpr bool kRows = std::is_same<Layout, row_major>::value;
  if constexpr (std::is_same<Use, matrix_a>::value) {
    for (int k = 0; k < K; ++k) {
      into.x[k] = kRows ? from[part.row * leading + k] : from[k * leading + part.row];
    }
  } else {
    for (int k = 0; k < K; ++k) {
      for (int j = 0; j < part.kWidth; ++j) {
        int column = part.column + j;
        into.x[k * part.kWidth + j] =
            kRows ? from[k * leading + column] : from[column * leading + k];
      }
    }
  }
  __syncwarp();
}

template <typename T, int M, int N, int K>
static inline void load_matrix_sync(fragment<accumulator, M, N, K, T>& into, const T* from,
                                    unsigned leading, layout_t layout) {
  EmulatorCheck(from, leading);
  EmulatorPart<M, N> part;
  for (int j = 0; j < part.kWidth; ++j) {
    int column = part.column + j;
    into.x[j] = layout == mem_row_major ? from[part.row * leading + column]
                                        : from[column * leading + part.row];
  }
  __syncwarp();
}

template <typename T, int M, int N, int K>
static inline void store_matrix_sync(T* to, const fragment<accumulator, M, N, K, T>& from,
                                     unsigned leading, layout_t layout) {
  EmulatorCheck(to, leading);
  EmulatorPart<M, N> part;
  for (int j = 0; j < part.kWidth; ++j) {
    int column = part.column + j;
    if (layout == mem_row_major) {
      to[part.row * leading + column] = from.x[j];
    } else {
      to[column * leading + part.row] = from.x[j];
    }
  }
  __syncwarp();
}

template <typename Use, int M, int N, int K, typename T, typename Layout, typename V>
static inline void fill_fragment(fragment<Use, M, N, K, T, Layout>& into, V value) {
  for (T& x : into.x) x = static_cast<T>(value);
}

template <typename D, typename C, int M, int N, int K, typename T, typename LayoutA,
          typename LayoutB>
static inline void mma_sync(fragment<accumulator, M, N, K, D>& d,
                            const fragment<matrix_a, M, N, K, T, LayoutA>& a,
                            const fragment<matrix_b, M, N, K, T, LayoutB>& b,
                            const fragment<accumulator, M, N, K, C>& c) {
  constexpr int kWidth = EmulatorPart<M, N>::kWidth;
  for (int j = 0; j < kWidth; ++j) {
    float sum = c.x[j];
    for (int k = 0; k < K; ++k) sum += float(a.x[k]) * float(b.x[k * kWidth + j]);
    d.x[j] = sum;
  }
}

}  // namespace wmma
}  // namespace nvcuda

#endif  // CUDA_EMULATOR_MMA_H_
