// The emulated libcuda.so.1: modules are shared libraries, launches run on the CPU.
#include <dlfcn.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mutex>
#include <string>

#include "environment.h"
#include "fibers.h"

namespace {

enum Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kNoDevice = 100,
  kInvalidImage = 200,
  kNotFound = 500,
  kNotSupported = 801
};

struct Module {
  void* library;
};

// A kernel of a loaded module: what calls it with the launch's arguments, and its shared memory.
struct Function {
  void (*call)(void** arguments);
  char* shared_begin;
  char* shared_end;
};

// Size of the ELF file at `image`: the section headers are its end.
size_t ImageSize(const void* image) {
  const auto* header = static_cast<const Elf64_Ehdr*>(image);
  if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return 0;
  return header->e_shoff + size_t{header->e_shnum} * header->e_shentsize;
}

std::mutex launching;

}  // namespace

extern "C" {

struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void* stream;
  void* attributes;
  unsigned num_attributes;
};

int cuModuleLoadData(Module** module, const void* image) {
  size_t size = ImageSize(image);
  if (size == 0) return kInvalidImage;
  int file = memfd_create("cuda_emulator", MFD_CLOEXEC);
  if (file < 0 || write(file, image, size) != static_cast<ssize_t>(size)) return kInvalidImage;
  void* library = dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fprintf(stderr, "cuda_emulator: %s\n", dlerror());
    return kInvalidImage;
  }
  // The file stays open: the loader would take the next module under this name for this one.
  *module = new Module{library};
  return kSuccess;
}

int cuModuleUnload(Module* module) {
  delete module;
  return kSuccess;
}

int cuModuleGetFunction(Function** function, Module* module, const char* name) {
  void* call = dlsym(module->library, (std::string(name) + "__emulated").c_str());
  if (call == nullptr) return kNotFound;
  auto symbol = [&](const char* suffix) {
    void* found = dlsym(module->library, (std::string(name) + suffix).c_str());
    auto* address = static_cast<char**>(found);
    return address == nullptr ? nullptr : *address;
  };
  *function = new Function{reinterpret_cast<void (*)(void**)>(call),
                           symbol("__shared_begin"), symbol("__shared_end")};
  return kSuccess;
}

int cuFuncSetAttribute(Function*, int, int) { return kSuccess; }

int cuLaunchKernelEx(const LaunchConfig* config, Function* function, void** arguments, void**) {
  uint64_t threads = uint64_t{config->block_x} * config->block_y * config->block_z;
  uint64_t blocks = uint64_t{config->grid_x} * config->grid_y * config->grid_z;
  if (threads == 0 || threads > 1024 || blocks == 0 || config->block_z > 64 ||
      config->grid_y > 65535 || config->grid_z > 65535 || config->grid_x > 2147483647u) {
    return kInvalidValue;
  }
  // What a block gets at compute capability 8.0; arrays of a fixed size have their own limit.
  size_t fixed = static_cast<size_t>(function->shared_end - function->shared_begin);
  if (config->shared_bytes > 163 * 1024 || fixed > 48 * 1024) return kInvalidValue;
  std::lock_guard<std::mutex> lock(launching);
  emulator::Launch launch;
  launch.call = function->call;
  launch.arguments = arguments;
  launch.grid = {config->grid_x, config->grid_y, config->grid_z};
  launch.block = {config->block_x, config->block_y, config->block_z};
  launch.fixed_shared = {function->shared_begin, fixed};
  launch.dynamic_shared = config->shared_bytes;
  emulator::Run(launch);
  return kSuccess;
}

int cuInit(unsigned) {
  return Environment("CUDA_EMULATOR_DEVICES", 1) == 0 ? kNoDevice : kSuccess;
}

int cuDeviceGet(int* device, int number) {
  *device = number;
  return number < Environment("CUDA_EMULATOR_DEVICES", 1) ? kSuccess : kNoDevice;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  int capability = Environment("CUDA_EMULATOR_CAPABILITY", 80);
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
  return kSuccess;
}

int cuDeviceGetName(char* name, int length, int) {
  snprintf(name, length, "emulated device");
  return kSuccess;
}

static const char* Name(int code) {
  switch (code) {
    case kSuccess: return "CUDA_SUCCESS";
    case kInvalidValue: return "CUDA_ERROR_INVALID_VALUE";
    case kNoDevice: return "CUDA_ERROR_NO_DEVICE";
    case kInvalidImage: return "CUDA_ERROR_INVALID_IMAGE";
    case kNotFound: return "CUDA_ERROR_NOT_FOUND";
    default: return "CUDA_ERROR_NOT_SUPPORTED";
  }
}

int cuGetErrorName(int code, const char** text) {
  *text = Name(code);
  return kSuccess;
}

int cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

int cuTensorMapEncodeTiled() { return kNotSupported; }

}  // extern "C"
