// A loaded model: its code, its mapped weights and a pool of virtual machines.
#ifndef BURNISH_SESSION_H_
#define BURNISH_SESSION_H_

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "arena.h"
#include "burnish_runtime.h"
#include "cuda.h"

namespace burnish {

// A file mapped read-only, for as long as the object lives.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  // Address of [offset, offset + bytes); throws if it is not all in the file.
  void* At(uint64_t offset, uint64_t bytes) const;
  uint64_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  uint64_t size_ = 0;
};

// Memory of a device that holds a copy of a file.
class DeviceCopy {
 public:
  DeviceCopy(const CudaDevice& device, const MappedFile& file);
  ~DeviceCopy() { memory_->Free(data_); }
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;
  void* At(uint64_t offset) const { return static_cast<char*>(data_) + offset; }

 private:
  std::unique_ptr<Memory> memory_;
  void* data_;
};

// A loaded model library. Sessions of one file share it: loading it twice would leave the code with
// a pointer to the module that came last, even after that is gone.
std::shared_ptr<tvm::ffi::Module> LoadLibrary(const std::string& path);

// The GPU that `device` names; nothing for the CPU. Throws a Failure if it is not there.
std::unique_ptr<CudaDevice> OpenDevice(BurnishDevice device);

class Session {
 public:
  Session(BurnishDevice device, const std::string& library_path, const char* weights_path,
          std::vector<BurnishInputSpec> inputs, const BurnishWeightSpec* weights,
          int32_t num_weights, int32_t num_outputs);

  void Run(const void* const* data, const int64_t* shapes, int threads, BurnishTensor* outputs);
  // Returns the number of records; throws if there are more than `capacity`.
  int64_t Profile(const void* const* data, const int64_t* shapes, int threads,
                  BurnishTensor* outputs, BurnishKernelTime* times, int64_t capacity);
  size_t memory() const;

 private:
  // One virtual machine with its argument list: what one thread needs to run the model.
  struct Instance {
    tvm::ffi::Module machine;
    tvm::ffi::Function main;
    std::vector<tvm::ffi::Tensor> inputs;
    std::vector<tvm::ffi::AnyView> args;
  };
  class Lease;

  void LoadWeights(const char* path, const BurnishWeightSpec* weights, int32_t num_weights);
  std::unique_ptr<Instance> MakeInstance() const;
  void RunOn(Instance* instance, const void* const* data, const int64_t* shapes, int threads,
             BurnishTensor* outputs) const;
  void BindInputs(Instance* instance, const void* const* data, const int64_t* shapes) const;
  void BindInput(tvm::ffi::Tensor* bound, tvm::ffi::ShapeView shape, BurnishDType dtype,
                 void* address) const;
  void HandOver(const tvm::ffi::Any& result, BurnishTensor* outputs) const;

  // For a model on a GPU: the device, and what it has of its own.
  std::unique_ptr<CudaDevice> cuda_;
  std::unique_ptr<DeviceCopy> device_weights_;
  // Where the kernels' memory comes from, and the outputs'. On the CPU they are one.
  std::shared_ptr<Arena> arena_;
  std::shared_ptr<Arena> host_arena_;
  std::unique_ptr<MappedFile> weights_file_;
  std::shared_ptr<tvm::ffi::Module> executable_;
  std::vector<BurnishInputSpec> inputs_;
  std::vector<tvm::ffi::Tensor> weights_;
  int32_t num_outputs_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Instance>> idle_;
};

}  // namespace burnish

#endif  // BURNISH_SESSION_H_
