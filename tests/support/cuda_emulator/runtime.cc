// The emulated libcudart.so.13: device memory is host memory with a closed page behind each block.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <chrono>
#include <map>
#include <mutex>
#include <utility>

#include "environment.h"

namespace {

enum Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoDevice = 100,
  kNotSupported = 801
};

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;
constexpr unsigned char kPoison = 0xff;  // a NaN in every float format

std::mutex mutex;
std::map<void*, std::pair<void*, size_t>> blocks;  // address given -> mapping and its size
int last_error = kSuccess;

int Fail(int code) { return last_error = code; }

size_t RoundUp(size_t value, size_t step) { return (value + step - 1) / step * step; }

}  // namespace

extern "C" {

typedef std::chrono::steady_clock::time_point Event;

int cudaGetDeviceCount(int* count) {
  *count = Environment("CUDA_EMULATOR_DEVICES", 1);
  return *count == 0 ? Fail(kNoDevice) : kSuccess;
}

int cudaGetDevice(int* device) {
  *device = 0;
  return kSuccess;
}

int cudaSetDevice(int device) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != kSuccess) return kNoDevice;
  return device >= 0 && device < count ? kSuccess : Fail(101);
}

int cudaDeviceGetAttribute(int* value, int attribute, int) {
  int capability = Environment("CUDA_EMULATOR_CAPABILITY", 80);
  switch (attribute) {
    case 1: *value = 1024; break;            // threads per block
    case 2: case 3: *value = 1024; break;    // block's x, y
    case 4: *value = 64; break;              // block's z
    case 5: *value = 2147483647; break;      // grid's x
    case 6: case 7: *value = 65535; break;   // grid's y, z
    case 8: *value = 48 << 10; break;        // shared memory per block
    case 9: *value = 64 << 10; break;        // constant memory
    case 10: *value = 32; break;             // warp
    case 12: *value = 65536; break;          // registers per block
    case 13: *value = 1000000; break;        // clock, kHz
    case 16: *value = 1; break;              // multiprocessors
    case 38: *value = 1 << 20; break;        // L2 cache
    case 39: *value = 2048; break;           // threads per multiprocessor
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    case 97: *value = 163 << 10; break;      // shared memory per block, on request
    default: *value = 0; break;
  }
  return kSuccess;
}

// Only the name, which comes first: the size of the rest changes between versions.
int cudaGetDeviceProperties(char* properties, int) {
  strcpy(properties, "emulated device");
  return kSuccess;
}

int cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard<std::mutex> lock(mutex);
  *free = *total = size_t{8} << 30;
  for (const auto& [address, block] : blocks) *free -= block.second;
  return kSuccess;
}

// The block's end lies at the closed page, or less than the alignment before it.
int cudaMalloc(void** address, size_t size) {
  size_t used = RoundUp(size == 0 ? 1 : size, kAlignment);
  size_t whole = RoundUp(used, kPage) + kPage;
  void* base = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return Fail(kOutOfMemory);
  char* guard = static_cast<char*>(base) + whole - kPage;
  mprotect(guard, kPage, PROT_NONE);
  memset(base, kPoison, whole - kPage);
  *address = guard - used;
  std::lock_guard<std::mutex> lock(mutex);
  blocks[*address] = {base, whole};
  return kSuccess;
}

int cudaFree(void* address) {
  if (address == nullptr) return kSuccess;
  std::lock_guard<std::mutex> lock(mutex);
  auto block = blocks.find(address);
  if (block == blocks.end()) return Fail(kInvalidValue);
  munmap(block->second.first, block->second.second);
  blocks.erase(block);
  return kSuccess;
}

int cudaMallocHost(void** address, size_t size) {
  *address = malloc(size == 0 ? 1 : size);
  return *address == nullptr ? Fail(kOutOfMemory) : kSuccess;
}

int cudaFreeHost(void* address) {
  free(address);
  return kSuccess;
}

int cudaMemcpyAsync(void* to, const void* from, size_t size, int, void*) {
  memmove(to, from, size);
  return kSuccess;
}

int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, void*) {
  memmove(to, from, size);
  return kSuccess;
}

int cudaEventCreate(Event** event) {
  *event = new Event();
  return kSuccess;
}
int cudaEventDestroy(Event* event) {
  delete event;
  return kSuccess;
}
int cudaEventRecord(Event* event, void*) {
  *event = std::chrono::steady_clock::now();
  return kSuccess;
}
int cudaEventSynchronize(Event*) { return kSuccess; }
int cudaEventElapsedTime(float* ms, Event* begin, Event* end) {
  *ms = std::chrono::duration<float, std::milli>(*end - *begin).count();
  return kSuccess;
}

int cudaStreamCreate(void** stream) {
  *stream = malloc(1);
  return kSuccess;
}
int cudaStreamCreateWithFlags(void** stream, unsigned) { return cudaStreamCreate(stream); }
int cudaStreamDestroy(void* stream) {
  free(stream);
  return kSuccess;
}
int cudaStreamSynchronize(void*) { return kSuccess; }
int cudaStreamWaitEvent(void*, void*, unsigned) { return kSuccess; }

int cudaStreamBeginCapture(void*, int) { return Fail(kNotSupported); }
int cudaStreamEndCapture(void*, void**) { return Fail(kNotSupported); }
int cudaGraphInstantiate(void**, void*, unsigned long long) { return Fail(kNotSupported); }
int cudaGraphLaunch(void*, void*) { return Fail(kNotSupported); }
int cudaGraphDestroy(void*) { return kSuccess; }
int cudaGraphExecDestroy(void*) { return kSuccess; }

int cudaPeekAtLastError(void) { return last_error; }
int cudaGetLastError(void) { return std::exchange(last_error, 0); }

const char* cudaGetErrorName(int code) {
  switch (code) {
    case kSuccess: return "cudaSuccess";
    case kOutOfMemory: return "cudaErrorMemoryAllocation";
    case kNoDevice: return "cudaErrorNoDevice";
    case kNotSupported: return "cudaErrorNotSupported";
    default: return "cudaErrorInvalidValue";
  }
}
const char* cudaGetErrorString(int code) {
  return code == kNoDevice ? "no CUDA-capable device is detected" : cudaGetErrorName(code);
}

}  // extern "C"
