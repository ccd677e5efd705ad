// A run's kernel calls, recorded so that they can be made again without the virtual machine.
#ifndef BURNISH_PLAN_H_
#define BURNISH_PLAN_H_

#include <tvm/ffi/tvm_ffi.h>

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "arena.h"
#include "shares.h"

namespace burnish {

// For inputs of the same shapes, a model calls the same kernels on tensors of the same shapes every
// time, as long as it has no loops and takes the same branches. The virtual machine allocates these tensors, passes every weight, and
// computes symbolic sizes anew in each run, which costs a small model more than its kernels do. A plan
// has the kernel calls with their arguments, and one block of memory in which every intermediate
// result has a fixed place; places are shared by results that do not live at the same time.
class Plan {
 public:
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Runs the kernels on inputs of the recorded shapes, on `threads` threads, which the caller has in
  // scope; the outputs are new tensors. False if the run takes another branch than the recorded one:
  // it has to be made anew, without the plan.
  bool Run(const void* const* data, int threads, std::vector<tvm::ffi::Tensor>* outputs);

 private:
  friend class Recorder;
  explicit Plan(std::shared_ptr<Arena> arena) : arena_(std::move(arena)) {}

  struct Step {
    tvm::ffi::Function function;  // nothing for a branch, whose only argument is its condition
    size_t first;                 // of its arguments in args_
    int32_t count;
    bool taken;                   // the condition's value
  };
  // A tensor that lies `offset` bytes into memory that is another one in each run.
  struct Moving {
    DLTensor* tensor;
    int64_t offset;
  };
  struct Output {
    tvm::ffi::Tensor prototype;   // shape and dtype; where the copy is taken from
    bool fresh;                   // kernels write it; otherwise it is copied
    int64_t offset;               // in its storage
    size_t storage_bytes;
    std::vector<Moving> tensors;  // in its storage
  };

  bool RunSteps();
  void Call(const Step& step) const;

  std::shared_ptr<Arena> arena_;
  Arena::Block block_;
  std::vector<Step> steps_;
  LoopShares shares_;
  std::vector<tvm::ffi::AnyView> args_;
  std::vector<tvm::ffi::Any> kept_;  // what args_ refers to
  std::vector<std::vector<Moving>> inputs_;
  std::vector<Output> outputs_;
};

// Watches one run of a virtual machine.
class Recorder {
 public:
  // `inputs` are the run's input tensors.
  explicit Recorder(const std::vector<tvm::ffi::Tensor>& inputs);

  // What the virtual machine has to call before and after every function.
  tvm::ffi::Function instrument();

  // The plan of the run, which returned `results`; nothing if a run may differ from another one of the
  // same shapes in more than its data.
  std::unique_ptr<Plan> Finish(const std::vector<tvm::ffi::Tensor>& results,
                               const std::shared_ptr<Arena>& arena);

 private:
  enum class Base { kFixed, kInput, kStorage, kShapeHeap };
  // Where a tensor lies: memory of its own that stays, or `offset` bytes into an input or a storage.
  struct Place {
    Base base = Base::kFixed;
    size_t index = 0;
    int64_t offset = 0;
  };
  struct Storage {
    size_t bytes = 0;
    int first = -1, last = -1;  // the steps that use it
    int output = -1;            // the output whose memory it is
    size_t offset = 0;          // in the plan's block
  };
  // A tensor among the arguments.
  struct Operand {
    tvm::ffi::Tensor tensor;
    Place place;
  };

  void After(tvm::ffi::PackedArgs args);
  // Whether it was one of the virtual machine's own functions.
  bool Builtin(const char* name, tvm::ffi::PackedArgs call, tvm::ffi::AnyView result);
  // Adds a step: a kernel, or a branch if `function` is nothing.
  void Add(tvm::ffi::Function function, const std::vector<tvm::ffi::AnyView>& call, bool taken);
  void Use(const tvm::ffi::Tensor& tensor);
  Place PlaceOf(const tvm::ffi::Tensor& tensor) const;
  tvm::ffi::Tensor Adopt(const tvm::ffi::Tensor& tensor, const Place& place);
  void PlaceStorages();
  void AddOutputs(const std::vector<tvm::ffi::Tensor>& results);
  void Bind();

  std::unique_ptr<Plan> plan_;
  bool refused_ = false;
  // By the address of the object. An address may be of another object later, but only after the call
  // that made it, which is recorded here.
  std::unordered_map<const void*, Place> places_;
  std::unordered_map<const void*, size_t> storage_of_;
  std::unordered_map<const void*, size_t> adopted_;
  std::vector<Storage> storages_;
  std::vector<Operand> operands_;
};

}  // namespace burnish

#endif  // BURNISH_PLAN_H_
