// A CUDA device: memory, copies and times, through CUDA's runtime library.
//
// Nothing here needs CUDA to be built: the libraries are looked for when the first model for a GPU
// is loaded.
#ifndef BURNISH_CUDA_H_
#define BURNISH_CUDA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "arena.h"
#include "burnish_runtime.h"

namespace burnish {

struct CudaApi;

// All work goes to the device's default stream, as that of TVM's kernels and copies does: it is done
// in the order in which it was given, by whichever thread.
class CudaDevice {
 public:
  // Loads the driver, CUDA's runtime and TVM's part for it; throws a Failure that says what is
  // missing, or that the device cannot run code for `arch` ("sm_80").
  CudaDevice(int id, const char* arch);

  DLDevice device() const { return {kDLCUDA, id_}; }
  // What an arena takes its blocks from.
  std::unique_ptr<Memory> memory() const;
  // Makes this the calling thread's device.
  void Use() const;
  // May return before the copy is done; `from` may then be changed already.
  void Upload(void* to, const void* from, size_t bytes) const;
  void Download(void* to, const void* from, size_t bytes) const;
  // Waits until all work is done; throws if a kernel failed.
  void Synchronize() const;

 private:
  friend class CudaTimeline;
  const CudaApi* api_;
  int id_;
};

// Times on the device, which runs behind the host: marks that it passes.
class CudaTimeline {
 public:
  explicit CudaTimeline(const CudaDevice& device);
  ~CudaTimeline();
  CudaTimeline(const CudaTimeline&) = delete;
  CudaTimeline& operator=(const CudaTimeline&) = delete;
  // Sets a mark behind the work given so far and returns its number, from 0.
  int64_t Mark();
  // Nanoseconds from the first mark to each; waits for the last.
  std::vector<int64_t> Read();

 private:
  const CudaDevice& device_;
  std::vector<void*> events_;
};

}  // namespace burnish

#endif  // BURNISH_CUDA_H_
