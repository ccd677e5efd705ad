#include "cuda.h"

#include <dlfcn.h>
#include <link.h>

#include <cctype>
#include <cstdlib>
#include <mutex>
#include <new>
#include <string>

#include "failure.h"

namespace burnish {

// CUDA's runtime functions with the types of cuda_runtime_api.h: handles are pointers, enumerations
// are ints, 0 is success.
struct CudaApi {
  int (*get_device_count)(int*);
  int (*set_device)(int);
  int (*get_attribute)(int*, int attribute, int device);
  int (*malloc)(void**, size_t);
  int (*free)(void*);
  int (*memcpy_async)(void* to, const void* from, size_t, int kind, void* stream);
  int (*stream_synchronize)(void*);
  int (*event_create)(void**);
  int (*event_destroy)(void*);
  int (*event_record)(void*, void* stream);
  int (*event_synchronize)(void*);
  int (*event_elapsed)(float* milliseconds, void* begin, void* end);
  int (*get_last_error)(void);
  const char* (*error_string)(int);
};

namespace {

constexpr const char* kDriver = "libcuda.so.1";
constexpr const char* kRuntime = "libcudart.so.13";
constexpr const char* kTvmRuntime = "libtvm_runtime.so";
constexpr const char* kTvmCudaRuntime = "libtvm_runtime_cuda.so";
// cudaError_t
constexpr int kOutOfMemory = 2;
// cudaMemcpyKind
constexpr int kHostToDevice = 1;
constexpr int kDeviceToHost = 2;
// cudaDeviceAttr
constexpr int kCapabilityMajor = 75;
constexpr int kCapabilityMinor = 76;

[[noreturn]] void FailUnavailable(const std::string& message) {
  throw Failure(BURNISH_UNAVAILABLE, message);
}

// Folder of a library that is in the process, with a slash behind; empty if it is not.
std::string FolderOf(const char* library) {
  void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  link_map* map = nullptr;
  std::string path;
  if (handle != nullptr && dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0) path = map->l_name;
  if (handle != nullptr) dlclose(handle);
  return path.substr(0, path.rfind('/') + 1);
}

// Loads a library for good, from the loader's own search or from the first of `folders` that has it.
void* Open(const char* name, const std::vector<std::string>& folders, const std::string& advice) {
  void* handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
  std::string why = handle == nullptr ? dlerror() : "";
  for (const std::string& folder : folders) {
    if (handle != nullptr) break;
    handle = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_GLOBAL);
  }
  if (handle == nullptr) {
    bool absent = why.find("No such file") != std::string::npos;
    FailUnavailable("a model for CUDA needs " + std::string(name) + ", which " +
                    (absent ? "is not here" : "cannot be loaded (" + why + ")") + ": " + advice);
  }
  return handle;
}

std::vector<std::string> RuntimeFolders() {
  std::vector<std::string> folders;
  std::string tvm = FolderOf(kTvmRuntime);
  // Beside the package tvm in site-packages is what `pip install nvidia-cuda-runtime` brings.
  if (!tvm.empty()) folders.push_back(tvm + "../../nvidia/cu13/lib/");
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* home = std::getenv(variable);
    if (home != nullptr) folders.push_back(std::string(home) + "/lib64/");
  }
  folders.push_back("/usr/local/cuda/lib64/");
  return folders;
}

template <typename Function>
void Bind(void* library, const char* name, Function** function) {
  *function = reinterpret_cast<Function*>(dlsym(library, name));
  if (*function == nullptr) FailUnavailable(std::string(kRuntime) + " has no function " + name);
}

CudaApi LoadApi() {
  Open(kDriver, {}, "install the driver of the NVIDIA GPU, or compile the model for another target");
  void* library = Open(kRuntime, RuntimeFolders(),
                       "pip install nvidia-cuda-runtime, or install the CUDA 13 toolkit");
  Open(kTvmCudaRuntime, {FolderOf(kTvmRuntime)}, "install apache-tvm again");
  CudaApi api{};
  Bind(library, "cudaGetDeviceCount", &api.get_device_count);
  Bind(library, "cudaSetDevice", &api.set_device);
  Bind(library, "cudaDeviceGetAttribute", &api.get_attribute);
  Bind(library, "cudaMalloc", &api.malloc);
  Bind(library, "cudaFree", &api.free);
  Bind(library, "cudaMemcpyAsync", &api.memcpy_async);
  Bind(library, "cudaStreamSynchronize", &api.stream_synchronize);
  Bind(library, "cudaEventCreate", &api.event_create);
  Bind(library, "cudaEventDestroy", &api.event_destroy);
  Bind(library, "cudaEventRecord", &api.event_record);
  Bind(library, "cudaEventSynchronize", &api.event_synchronize);
  Bind(library, "cudaEventElapsedTime", &api.event_elapsed);
  Bind(library, "cudaGetLastError", &api.get_last_error);
  Bind(library, "cudaGetErrorString", &api.error_string);
  return api;
}

const CudaApi& Api() {
  // A failure is not kept: a later call may find what was missing.
  static std::mutex* mutex = new std::mutex();
  static const CudaApi* api = nullptr;
  std::lock_guard<std::mutex> lock(*mutex);
  if (api == nullptr) api = new CudaApi(LoadApi());
  return *api;
}

void Check(const CudaApi& api, int code, const char* what) {
  if (code == 0) return;
  api.get_last_error();  // so that it is not taken for the next call's
  if (code == kOutOfMemory) throw Failure(BURNISH_FAILED, "the GPU is out of memory");
  throw Failure(BURNISH_FAILED, std::string(what) + " failed: " + api.error_string(code));
}

class DeviceMemory final : public Memory {
 public:
  DeviceMemory(const CudaApi* api, int id) : api_(api), id_(id) {}
  DLDevice device() const override { return {kDLCUDA, id_}; }
  void* Alloc(size_t bytes) override {
    Check(*api_, api_->set_device(id_), "choosing the GPU");
    void* data = nullptr;
    Check(*api_, api_->malloc(&data, bytes), "allocating memory of the GPU");
    return data;
  }
  void Free(void* data) override { api_->free(data); }

 private:
  const CudaApi* api_;
  int id_;
};

// "sm_80" -> 80
int CapabilityOf(const char* arch) {
  std::string digits;
  for (const char* c = arch; *c != '\0'; ++c) {
    if (std::isdigit(static_cast<unsigned char>(*c))) digits += *c;
  }
  if (digits.empty() || digits.size() > 4) {
    throw Failure(BURNISH_INVALID, "not a GPU architecture: " + std::string(arch));
  }
  return std::stoi(digits);
}

}  // namespace

CudaDevice::CudaDevice(int id, const char* arch) : api_(&Api()), id_(id) {
  int count = 0;
  int code = api_->get_device_count(&count);
  if (code != 0 || count == 0) {
    api_->get_last_error();
    FailUnavailable("there is no CUDA device here: " +
                    std::string(code != 0 ? api_->error_string(code) : "the driver names none"));
  }
  if (id < 0 || id >= count) {
    FailUnavailable("there is no CUDA device " + std::to_string(id) + ": this machine has " +
                    std::to_string(count));
  }
  int major = 0;
  int minor = 0;
  Check(*api_, api_->get_attribute(&major, kCapabilityMajor, id), "asking the GPU");
  Check(*api_, api_->get_attribute(&minor, kCapabilityMinor, id), "asking the GPU");
  // A newer GPU runs it as well: the fat binary has PTX behind the machine code.
  if (10 * major + minor < CapabilityOf(arch)) {
    throw Failure(BURNISH_INVALID, "the artifact was compiled for " + std::string(arch) +
                                       ", and GPU " + std::to_string(id) + " has only sm_" +
                                       std::to_string(major) + std::to_string(minor));
  }
}

std::unique_ptr<Memory> CudaDevice::memory() const {
  return std::make_unique<DeviceMemory>(api_, id_);
}

void CudaDevice::Use() const { Check(*api_, api_->set_device(id_), "choosing the GPU"); }

void CudaDevice::Upload(void* to, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  Check(*api_, api_->memcpy_async(to, from, bytes, kHostToDevice, nullptr), "copying to the GPU");
}

void CudaDevice::Download(void* to, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  Check(*api_, api_->memcpy_async(to, from, bytes, kDeviceToHost, nullptr), "copying from the GPU");
}

void CudaDevice::Synchronize() const {
  Check(*api_, api_->stream_synchronize(nullptr), "a kernel on the GPU");
}

CudaTimeline::CudaTimeline(const CudaDevice& device) : device_(device) {}

CudaTimeline::~CudaTimeline() {
  for (void* event : events_) device_.api_->event_destroy(event);
}

int64_t CudaTimeline::Mark() {
  const CudaApi& api = *device_.api_;
  void* event = nullptr;
  Check(api, api.event_create(&event), "making an event");
  events_.push_back(event);
  Check(api, api.event_record(event, nullptr), "recording an event");
  return static_cast<int64_t>(events_.size()) - 1;
}

std::vector<int64_t> CudaTimeline::Read() {
  const CudaApi& api = *device_.api_;
  if (!events_.empty()) Check(api, api.event_synchronize(events_.back()), "a kernel on the GPU");
  std::vector<int64_t> times;
  times.reserve(events_.size());
  for (void* event : events_) {
    float milliseconds = 0;
    Check(api, api.event_elapsed(&milliseconds, events_.front(), event), "reading an event");
    times.push_back(static_cast<int64_t>(double{milliseconds} * 1e6));
  }
  return times;
}

}  // namespace burnish
