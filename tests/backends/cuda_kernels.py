"""Handwritten CUDA kernels, and how to launch one without TVM."""

from __future__ import annotations

import ctypes

import numpy as np

from tests.support.cuda_emulator.build import compile_cuda


class _LaunchConfig(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint) for name in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    )


def launch(kernel: str, blocks: str, threads: str, elements: str) -> None:
    """Run a kernel of :data:`KERNELS` on 1, 2, 3 ... and print the floats that it leaves."""
    driver, runtime = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libcudart.so.13")
    module, function, data = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    image = compile_cuda(KERNELS[kernel], "sm_80")
    assert driver.cuModuleLoadData(ctypes.byref(module), image) == 0
    assert driver.cuModuleGetFunction(ctypes.byref(function), module, b"kernel") == 0
    size = int(elements)
    array = np.arange(1, size + 1, dtype=np.float32)
    assert runtime.cudaMalloc(ctypes.byref(data), ctypes.c_size_t(array.nbytes)) == 0
    host = array.ctypes.data_as(ctypes.c_void_p)
    runtime.cudaMemcpyAsync(data, host, ctypes.c_size_t(array.nbytes), 1, None)
    arguments = (ctypes.c_void_p * 2)()
    count = ctypes.c_int(size)
    arguments[0] = ctypes.cast(ctypes.byref(data), ctypes.c_void_p)
    arguments[1] = ctypes.cast(ctypes.byref(count), ctypes.c_void_p)
    config = _LaunchConfig(int(blocks), 1, 1, int(threads), 1, 1, 4096, None, None, 0)
    assert driver.cuLaunchKernelEx(ctypes.byref(config), function, arguments, None) == 0
    runtime.cudaMemcpyAsync(host, data, ctypes.c_size_t(array.nbytes), 2, None)
    print(*array)


_KERNEL = """#include <cuda_fp16.h>
#include <mma.h>
extern "C" __global__ void kernel(float* x, int n)
"""
_ROTATE = """{
  __shared__ float kept[64];
  int i = threadIdx.x;
  kept[i] = x[blockIdx.x * 64 + i];
  BARRIER
  x[blockIdx.x * 64 + i] = kept[(i + 1) % 64];
}"""

#: Right ones, and ones with a mistake each.
KERNELS = {
    "rotate": _KERNEL + _ROTATE.replace("BARRIER", "__syncthreads();"),
    "no barrier": _KERNEL + _ROTATE.replace("BARRIER", ""),
    "warp sum": _KERNEL
    + """{
  float sum = x[threadIdx.x];
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d, 32);
  x[threadIdx.x] = sum;
}""",
    "exchange in a branch": _KERNEL
    + """{
  float value = x[threadIdx.x];
  if (threadIdx.x % 2 == 0) value += __shfl_xor_sync(0xffffffffu, value, 2, 32);
  x[threadIdx.x] = value + __shfl_xor_sync(0xffffffffu, value, 1, 32);
}""",
    "overrun": _KERNEL + "{ x[threadIdx.x + n] = 1; }",
    "dynamic": _KERNEL
    + """{
  extern __shared__ __align__(16) float kept[];
  kept[threadIdx.x] = 2 * x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = kept[n - 1 - threadIdx.x];
}""",
    "tensor core": _KERNEL
    + """{
  using namespace nvcuda::wmma;
  __shared__ alignas(32) half a[256];
  __shared__ alignas(32) float c[256];
  for (int i = threadIdx.x; i < 256; i += 32) a[i] = half(i / 16 == i % 16 ? 2.0f : 0.0f);
  for (int i = threadIdx.x; i < 256; i += 32) c[i] = x[i];
  __shared__ alignas(32) half b[256];
  for (int i = threadIdx.x; i < 256; i += 32) b[i] = half(x[i]);
  __syncthreads();
  fragment<matrix_a, 16, 16, 16, half, row_major> fa;
  fragment<matrix_b, 16, 16, 16, half, col_major> fb;
  fragment<accumulator, 16, 16, 16, float> fc;
  load_matrix_sync(fa, a, 16);
  load_matrix_sync(fb, b, 16);
  load_matrix_sync(fc, c, 16, mem_row_major);
  mma_sync(fc, fa, fb, fc);
  store_matrix_sync(x, fc, 16, mem_row_major);
}""",
}
