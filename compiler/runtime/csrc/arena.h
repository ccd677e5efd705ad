// Memory for activations and outputs, kept between runs.
#ifndef BURNISH_ARENA_H_
#define BURNISH_ARENA_H_

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace burnish {

// What a kernel may read beyond the end of a tensor: one vector.
constexpr size_t kOverread = 64;

// Where an arena's blocks come from.
class Memory {
 public:
  virtual ~Memory() = default;
  // Whose memory it is.
  virtual DLDevice device() const = 0;
  // Memory that is aligned to at least 64 bytes; throws if there is none left.
  virtual void* Alloc(size_t bytes) = 0;
  virtual void Free(void* data) = 0;
};

// The CPU's.
std::unique_ptr<Memory> HostMemory();

// Blocks of 64-byte aligned memory that are reused by the best fit.
//
// TVM's pooled allocator keeps every block for ever and reuses it only for the same size, so a model
// that serves many sequence lengths grows by one set of blocks for each. Here sizes are rounded to
// two steps an octave, a block serves whatever fills half of it, and blocks that were not used for
// many runs go back to the system.
class Arena {
 public:
  struct Block {
    void* data = nullptr;
    size_t capacity = 0;
  };

  explicit Arena(std::unique_ptr<Memory> memory) : memory_(std::move(memory)) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Memory for `bytes` and what may be read beyond.
  Block Take(size_t bytes);
  void Give(const Block& block);
  // Marks the end of a run of the model: blocks age in runs.
  void EndRun();
  // Whether the address lies in one of this arena's blocks.
  bool Owns(const void* address) const;
  size_t bytes() const;
  DLDevice device() const { return memory_->device(); }

 private:
  struct Idle {
    void* data;
    uint64_t since;  // the run that gave it back
  };

  std::unique_ptr<Memory> memory_;
  mutable std::mutex mutex_;
  std::multimap<size_t, Idle> idle_;       // by capacity
  std::map<uintptr_t, size_t> blocks_;     // address -> capacity, in use or idle
  size_t bytes_ = 0;
  uint64_t runs_ = 0;
};

// An uninitialised tensor from the arena, which lives as long as its tensors.
tvm::ffi::Tensor AllocTensor(const std::shared_ptr<Arena>& arena, tvm::ffi::ShapeView shape,
                             DLDataType dtype);
// The same, `offset` bytes into a storage of `bytes`.
tvm::ffi::Tensor AllocTensor(const std::shared_ptr<Arena>& arena, tvm::ffi::ShapeView shape,
                             DLDataType dtype, int64_t offset, size_t bytes);

// A module that answers the virtual machine's allocation built-ins with these arenas. The machine
// looks among a module's imports before it takes TVM's built-ins. `first` serves its first device,
// `host` the CPU; for a model on the CPU they are the same.
tvm::ffi::Module ArenaModule(std::shared_ptr<Arena> first, std::shared_ptr<Arena> host);

}  // namespace burnish

#endif  // BURNISH_ARENA_H_
