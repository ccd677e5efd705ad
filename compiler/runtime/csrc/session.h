// A loaded model: its code, its mapped weights and a pool of virtual machines.
#ifndef BURNISH_SESSION_H_
#define BURNISH_SESSION_H_

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "arena.h"
#include "burnish_runtime.h"
#include "cuda.h"
#include "plan.h"

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
    std::vector<tvm::ffi::Tensor> inputs{};
    std::vector<tvm::ffi::AnyView> args{};
    // Shapes of the last run, how many runs in a row had them, and the plan for them.
    std::vector<int64_t> shapes{};
    uint64_t runs = 0;
    std::unique_ptr<Plan> plan{};
    // Runs in a row before one is recorded.
    uint64_t patience = 2;
    std::vector<tvm::ffi::Tensor> outputs{};
  };
  class Lease;

  void LoadWeights(const char* path, const BurnishWeightSpec* weights, int32_t num_weights);
  std::unique_ptr<Instance> MakeInstance() const;
  void Call(Instance* instance, const void* const* data, const int64_t* shapes) const;
  void Count(Instance* instance, const int64_t* shapes) const;
  void DropPlan(Instance* instance) const;
  void Record(Instance* instance, const void* const* data, const int64_t* shapes);
  void BindInputs(Instance* instance, const void* const* data, const int64_t* shapes) const;
  void BindInput(tvm::ffi::Tensor* bound, tvm::ffi::ShapeView shape, BurnishDType dtype,
                 void* address) const;
  void TakeResult(const tvm::ffi::Any& result, std::vector<tvm::ffi::Tensor>* outputs) const;
  void MakeOwn(std::vector<tvm::ffi::Tensor>* outputs) const;
  void HandOver(std::vector<tvm::ffi::Tensor>* tensors, BurnishTensor* outputs) const;

  // For a model on a GPU: the device, and what it has of its own.
  std::unique_ptr<CudaDevice> cuda_;
  std::unique_ptr<DeviceCopy> device_weights_;
  // Where the kernels' memory comes from, and the outputs'. On the CPU they are one.
  std::shared_ptr<Arena> arena_;
  std::shared_ptr<Arena> host_arena_;
  std::unique_ptr<MappedFile> weights_file_;
  std::shared_ptr<tvm::ffi::Module> executable_;
  // What the operations of another library keep for this model: packed weights.
  tvm::ffi::Optional<tvm::ffi::Module> operations_;
  std::vector<BurnishInputSpec> inputs_;
  std::vector<tvm::ffi::Tensor> weights_;
  int32_t num_outputs_;
  size_t num_dims_ = 0;  // of all inputs
  // Whether runs can be recorded as plans, as far as is known.
  std::atomic<bool> plannable_{true};
  std::mutex mutex_;
  std::vector<std::unique_ptr<Instance>> idle_;
};

}  // namespace burnish

#endif  // BURNISH_SESSION_H_
