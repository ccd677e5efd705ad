#include "arena.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#include "dynamic.h"

namespace ffi = tvm::ffi;

namespace burnish {
namespace {

constexpr size_t kAlignment = 64;
// Runs after which an unused block goes back to the system.
constexpr uint64_t kIdleRuns = 64;
constexpr size_t kHugePage = size_t{2} << 20;

// The smallest of 256, 384, 512, 768, 1024 ... that holds `bytes`.
//
// Sizes that grow step by step would otherwise miss every block that is there. Only address space
// is rounded up: pages that are never touched cost nothing.
size_t BlockSize(size_t bytes) {
  size_t size = 256;
  while (size < bytes) {
    if (size / 2 * 3 >= bytes) return size / 2 * 3;
    size *= 2;
  }
  return size;
}

class HostMemoryImpl final : public Memory {
 public:
  DLDevice device() const override { return {kDLCPU, 0}; }
  void* Alloc(size_t capacity) override {
    bool huge = capacity >= 2 * kHugePage;
    void* data = nullptr;
    if (posix_memalign(&data, huge ? kHugePage : kAlignment, capacity) != 0) throw std::bad_alloc();
    // Fewer page faults and TLB misses where the system allows it; otherwise no effect.
    if (huge) madvise(data, capacity / kHugePage * kHugePage, MADV_HUGEPAGE);
    return data;
  }
  void Free(void* data) override { std::free(data); }
};

// The virtual machine's storage object: one block that tensors are cut from.
class StorageObj : public ffi::Object {
 public:
  StorageObj(std::shared_ptr<Arena> arena, size_t bytes)
      : arena(std::move(arena)), bytes(bytes), block(this->arena->Take(bytes)) {}
  ~StorageObj() { arena->Give(block); }

  std::shared_ptr<Arena> arena;
  size_t bytes;
  Arena::Block block;

  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("burnish.Storage", StorageObj, ffi::Object);
};

class Storage : public ffi::ObjectRef {
 public:
  TVM_FFI_DEFINE_OBJECT_REF_METHODS_NULLABLE(Storage, ffi::ObjectRef, StorageObj);
};

// Holds the storage of a tensor.
struct StorageView {
  Storage storage;
  void AllocData(DLTensor* tensor, int64_t offset) {
    tensor->data = static_cast<char*>(storage->block.data) + offset;
  }
  void FreeData(DLTensor*) {}
};

Storage MakeStorage(const std::shared_ptr<Arena>& arena, size_t bytes) {
  return Storage(ffi::make_object<StorageObj>(arena, bytes));
}

ffi::Tensor TensorIn(const Storage& storage, int64_t offset, ffi::ShapeView shape,
                     DLDataType dtype) {
  size_t needed = ffi::GetDataSize(shape.Product(), dtype);
  TVM_FFI_CHECK(offset >= 0 && offset + needed <= storage->bytes, InternalError)
      << "a tensor of " << needed << " bytes at offset " << offset << " exceeds its storage of "
      << storage->bytes << " bytes";
  return ffi::Tensor::FromNDAlloc(StorageView{storage}, shape, dtype, storage->arena->device(),
                                 offset);
}

class ArenaModuleObj : public ffi::ModuleObj {
 public:
  ArenaModuleObj(std::shared_ptr<Arena> first, std::shared_ptr<Arena> host) : host_(host) {
    // (vm, shape in elements of the dtype, device, dtype, scope) -> storage
    alloc_storage_ = ffi::Function::FromPacked([=](ffi::PackedArgs args, ffi::Any* result) {
      ffi::Shape shape = args[1].cast<ffi::Shape>();
      // The machine's devices in their order; -1 is the host as well.
      const std::shared_ptr<Arena>& arena = args[2].cast<int64_t>() == 0 ? first : host;
      *result = MakeStorage(arena, ffi::GetDataSize(shape.Product(), args[3].cast<DLDataType>()));
    });
    // (storage, offset, shape, dtype[, scope]) -> tensor
    alloc_tensor_ = ffi::Function::FromPacked([](ffi::PackedArgs args, ffi::Any* result) {
      *result = TensorIn(args[0].cast<Storage>(), args[1].cast<int64_t>(),
                         args[2].cast<ffi::Shape>(), args[3].cast<DLDataType>());
    });
  }
  const char* kind() const final { return "burnish.arena"; }
  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    if (name == "vm.builtin.alloc_storage") return alloc_storage_;
    if (name == "vm.builtin.alloc_tensor") return alloc_tensor_;
    return DynamicFunction(name, host_);
  }

 private:
  std::shared_ptr<Arena> host_;
  ffi::Function alloc_storage_{nullptr};
  ffi::Function alloc_tensor_{nullptr};
};

}  // namespace

Arena::~Arena() {
  for (const auto& [address, capacity] : blocks_) memory_->Free(reinterpret_cast<void*>(address));
}

Arena::Block Arena::Take(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t capacity = BlockSize(bytes + kOverread);
  auto best = idle_.lower_bound(capacity);
  if (best != idle_.end() && best->first <= 2 * capacity) {
    Block block{best->second.data, best->first};
    idle_.erase(best);
    return block;
  }
  Block block{memory_->Alloc(capacity), capacity};
  blocks_.emplace(reinterpret_cast<uintptr_t>(block.data), capacity);
  bytes_ += capacity;
  return block;
}

void Arena::Give(const Block& block) {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.emplace(block.capacity, Idle{block.data, runs_});
}

void Arena::EndRun() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (++runs_ % kIdleRuns != 0) return;
  for (auto block = idle_.begin(); block != idle_.end();) {
    if (block->second.since + kIdleRuns > runs_) {
      ++block;
      continue;
    }
    bytes_ -= block->first;
    blocks_.erase(reinterpret_cast<uintptr_t>(block->second.data));
    memory_->Free(block->second.data);
    block = idle_.erase(block);
  }
}

bool Arena::Owns(const void* address) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto where = reinterpret_cast<uintptr_t>(address);
  auto after = blocks_.upper_bound(where);
  if (after == blocks_.begin()) return false;
  --after;
  return where < after->first + after->second;
}

size_t Arena::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

ffi::Tensor AllocTensor(const std::shared_ptr<Arena>& arena, ffi::ShapeView shape,
                        DLDataType dtype) {
  return AllocTensor(arena, shape, dtype, 0, ffi::GetDataSize(shape.Product(), dtype));
}

ffi::Tensor AllocTensor(const std::shared_ptr<Arena>& arena, ffi::ShapeView shape,
                        DLDataType dtype, int64_t offset, size_t bytes) {
  return TensorIn(MakeStorage(arena, bytes), offset, shape, dtype);
}

ffi::Module ArenaModule(std::shared_ptr<Arena> first, std::shared_ptr<Arena> host) {
  return ffi::Module(ffi::make_object<ArenaModuleObj>(std::move(first), std::move(host)));
}

std::unique_ptr<Memory> HostMemory() { return std::make_unique<HostMemoryImpl>(); }

}  // namespace burnish
