#include "plan.h"

#include <tvm/ffi/container/shape.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>

#include "dynamic.h"
#include "tensors.h"

namespace ffi = tvm::ffi;

namespace burnish {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kPage = 4096;
constexpr const char* kBuiltins = "vm.builtin.";
// Arguments of the instrument before those of the call: function, name, before or after, result.
constexpr int kHeader = 4;

const void* Identity(ffi::AnyView value) {
  TVMFFIAny raw = value.CopyToTVMFFIAny();
  return raw.type_index >= TVMFFITypeIndex::kTVMFFIStaticObjectBegin ? raw.v_obj : nullptr;
}

const void* Identity(const ffi::Tensor& tensor) { return Identity(ffi::AnyView(tensor)); }

// As vm.builtin.read_if_cond reads it.
bool IsTrue(const DLTensor& scalar) {
  const char* data = static_cast<const char*>(scalar.data) + scalar.byte_offset;
  return std::any_of(data, data + (scalar.dtype.bits + 7) / 8, [](char byte) { return byte != 0; });
}

// A value that stays what it is when the call is over.
bool IsPlain(ffi::AnyView value) {
  switch (value.type_index()) {
    case ffi::TypeIndex::kTVMFFINone:
    case ffi::TypeIndex::kTVMFFIInt:
    case ffi::TypeIndex::kTVMFFIBool:
    case ffi::TypeIndex::kTVMFFIFloat:
    case ffi::TypeIndex::kTVMFFISmallStr:
    case ffi::TypeIndex::kTVMFFIStr:
    case ffi::TypeIndex::kTVMFFIShape:
      return true;
    default:
      return false;
  }
}

// The calling thread's loops are shared out as before when the scope is left.
class ShareScope {
 public:
  ShareScope() : current_(CurrentLoopShare()), saved_(current_) {}
  ~ShareScope() { current_ = saved_; }
  ShareScope(const ShareScope&) = delete;
  ShareScope& operator=(const ShareScope&) = delete;
  void Set(LoopShare share) { current_ = share; }

 private:
  LoopShare& current_;
  LoopShare saved_;
};

// Room for a tensor: with what a kernel may read beyond its end, and such that large tensors begin
// alike on their pages, as they do in blocks of their own.
size_t Room(size_t bytes) {
  size_t unit = bytes < kPage ? kAlignment : kPage;
  return (bytes + kOverread + unit - 1) / unit * unit;
}

}  // namespace

Plan::~Plan() {
  if (block_.data != nullptr) arena_->Give(block_);
}

bool Plan::Run(const void* const* data, int threads, std::vector<ffi::Tensor>* outputs) {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    char* address = static_cast<char*>(const_cast<void*>(data[i]));
    for (const Moving& moving : inputs_[i]) moving.tensor->data = address + moving.offset;
  }
  outputs->resize(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Output& output = outputs_[i];
    ffi::Tensor& made = (*outputs)[i];
    made = AllocTensor(arena_, output.prototype.shape(), output.prototype.dtype(), output.offset,
                       output.storage_bytes);
    char* storage = Address(made) - output.offset;
    for (const Moving& moving : output.tensors) moving.tensor->data = storage + moving.offset;
  }
  shares_.Begin(threads);
  if (!RunSteps()) return false;
  shares_.End();
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const ffi::Tensor& source = outputs_[i].prototype;
    size_t bytes = outputs_[i].fresh ? 0 : ffi::GetDataSize(*Raw(source));
    if (bytes > 0) std::memcpy(Address((*outputs)[i]), Address(source), bytes);
  }
  return true;
}

// False at a branch that is another one than before.
bool Plan::RunSteps() {
  using Clock = std::chrono::steady_clock;
  ShareScope share;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    if (step.function == nullptr) {
      if (IsTrue(*args_[step.first].cast<DLTensor*>()) != step.taken) return false;
      continue;
    }
    share.Set(shares_.of(i));
    if (!shares_.trying()) {
      Call(step);
      continue;
    }
    Clock::time_point begin = Clock::now();
    Call(step);
    std::chrono::duration<float, std::micro> took = Clock::now() - begin;
    shares_.Record(i, took.count());
  }
  return true;
}

void Plan::Call(const Step& step) const {
  ffi::Any nothing;
  step.function.CallPacked(args_.data() + step.first, step.count, &nothing);
}

Recorder::Recorder(const std::vector<ffi::Tensor>& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    places_[Identity(inputs[i])] = {Base::kInput, i, 0};
  }
  plan_.reset(new Plan(nullptr));
  plan_->inputs_.resize(inputs.size());
}

ffi::Function Recorder::instrument() {
  return ffi::Function::FromPacked([this](ffi::PackedArgs args, ffi::Any*) {
    // What a function has called was recorded before.
    if (!args[2].cast<bool>() && !refused_) After(args);
  });
}

void Recorder::After(ffi::PackedArgs args) {
  std::vector<ffi::AnyView> call(args.data() + kHeader, args.data() + args.size());
  auto function = args[0].as<ffi::Function>();
  ffi::AnyView result = args[kHeader - 1];
  const char* name = args[1].cast<const char*>();
  // A function of the virtual machine: a branch, whose kernels were seen.
  if (!function.has_value()) return;
  if (IsDataDependent(name)) {
    refused_ = true;
  } else if (std::strcmp(name, "vm.builtin.read_if_cond") == 0) {
    // A condition that is no tensor is one of sizes.
    if (call.front().as<ffi::Tensor>().has_value()) Add(nullptr, call, result.cast<bool>());
  } else if (std::strcmp(name, "vm.builtin.call_tir_dyn") == 0) {
    // (kernel, tensors..., sizes): the sizes are integer arguments of their own.
    ffi::Function kernel = call.front().cast<ffi::Function>();
    ffi::Shape sizes = call.back().cast<ffi::Shape>();
    call.erase(call.begin());
    call.pop_back();
    for (int64_t size : sizes) call.emplace_back(size);
    Add(std::move(kernel), call, false);
  } else if (std::strncmp(name, kBuiltins, std::strlen(kBuiltins)) == 0) {
    refused_ = !Builtin(name + std::strlen(kBuiltins), args.Slice(kHeader), result);
  } else if (IsSizeCheck(name)) {
    // It holds for the same sizes.
  } else if (result == nullptr) {
    Add(*function, call, false);
  } else {
    refused_ = true;
  }
}

bool Recorder::Builtin(const char* name, ffi::PackedArgs call, ffi::AnyView result) {
  auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("alloc_storage")) {
    // (vm, shape, device, dtype, scope)
    storage_of_[Identity(result)] = storages_.size();
    storages_.push_back({ffi::GetDataSize(call[1].cast<ffi::Shape>().Product(),
                                          call[3].cast<DLDataType>())});
  } else if (is("alloc_tensor")) {
    // (storage, offset, shape, dtype)
    auto storage = storage_of_.find(Identity(call[0]));
    if (storage == storage_of_.end()) return false;
    places_[Identity(result)] = {Base::kStorage, storage->second, call[1].cast<int64_t>()};
    adopted_.erase(Identity(result));
  } else if (is("reshape")) {
    auto viewed = call[0].as<ffi::Tensor>();
    if (!viewed.has_value()) return false;
    places_[Identity(result)] = PlaceOf(*viewed);
    adopted_.erase(Identity(result));
  } else if (is("alloc_shape_heap")) {
    places_[Identity(result)] = {Base::kShapeHeap, 0, 0};
  } else {
    // These give sizes, which are those of the inputs, or tensors that were there before.
    return is("match_shape") || is("match_prim_value") || is("make_shape") ||
           is("make_prim_value") || is("shape_of") || is("check_tensor_info") ||
           is("check_shape_info") || is("check_prim_value_info") || is("check_tuple_info") ||
           is("null_value") || is("copy") || is("make_tuple") || is("tuple_getitem");
  }
  return true;
}

Recorder::Place Recorder::PlaceOf(const ffi::Tensor& tensor) const {
  auto found = places_.find(Identity(tensor));
  return found == places_.end() ? Place{} : found->second;
}

void Recorder::Add(ffi::Function function, const std::vector<ffi::AnyView>& call, bool taken) {
  // A kernel that computes sizes: they lie in the arguments of those that follow.
  if (call.size() == 1) {
    auto only = call[0].as<ffi::Tensor>();
    if (only.has_value() && PlaceOf(*only).base == Base::kShapeHeap) return;
  }
  plan_->steps_.push_back({std::move(function), plan_->args_.size(),
                           static_cast<int32_t>(call.size()), taken});
  for (ffi::AnyView arg : call) {
    if (auto tensor = arg.as<ffi::Tensor>()) {
      Use(*tensor);
    } else if (IsPlain(arg)) {
      plan_->kept_.push_back(arg);
      plan_->args_.push_back(plan_->kept_.back());
    } else {
      refused_ = true;
      return;
    }
  }
}

void Recorder::Use(const ffi::Tensor& tensor) {
  Place place = PlaceOf(tensor);
  if (place.base == Base::kShapeHeap) refused_ = true;
  if (place.base == Base::kStorage) {
    Storage& storage = storages_[place.index];
    storage.last = static_cast<int>(plan_->steps_.size()) - 1;
    if (storage.first < 0) storage.first = storage.last;
  }
  plan_->args_.push_back(Adopt(tensor, place));
}

// The plan's own tensor in place of one that the virtual machine takes back. What does not move
// (weights, constants) stays itself.
ffi::Tensor Recorder::Adopt(const ffi::Tensor& tensor, const Place& place) {
  auto known = adopted_.find(Identity(tensor));
  if (known != adopted_.end()) return operands_[known->second].tensor;
  ffi::Tensor own = tensor;
  if (place.base != Base::kFixed) {
    own = Borrow(nullptr, tensor.shape(), tensor.dtype(), Raw(tensor)->device);
  }
  adopted_[Identity(tensor)] = operands_.size();
  operands_.push_back({own, place});
  plan_->kept_.push_back(own);
  return own;
}

std::unique_ptr<Plan> Recorder::Finish(const std::vector<ffi::Tensor>& results,
                                       const std::shared_ptr<Arena>& arena) {
  if (refused_) return nullptr;
  plan_->arena_ = arena;
  AddOutputs(results);
  PlaceStorages();
  Bind();
  plan_->shares_ = LoopShares(plan_->steps_.size());
  return std::move(plan_);
}

// Kernels write an output where the caller gets it, unless an earlier output has that memory or it is
// an input or a weight: the caller gets a copy then.
void Recorder::AddOutputs(const std::vector<ffi::Tensor>& results) {
  for (const ffi::Tensor& result : results) {
    Place place = PlaceOf(result);
    int index = static_cast<int>(plan_->outputs_.size());
    bool fresh = place.base == Base::kStorage && storages_[place.index].output < 0;
    Plan::Output output{Adopt(result, place), fresh, 0, ffi::GetDataSize(*Raw(result)), {}};
    if (fresh) {
      storages_[place.index].output = index;
      output.offset = place.offset;
      output.storage_bytes = storages_[place.index].bytes;
    }
    plan_->outputs_.push_back(std::move(output));
  }
}

// Largest first, each at the lowest offset that is free all the time it is in use.
void Recorder::PlaceStorages() {
  std::vector<Storage*> order;
  for (Storage& storage : storages_) {
    if (storage.first >= 0 && storage.output < 0) order.push_back(&storage);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Storage* a, const Storage* b) { return a->bytes > b->bytes; });
  std::vector<Storage*> placed;  // by offset
  size_t total = 0;
  for (Storage* storage : order) {
    size_t offset = 0;
    for (const Storage* other : placed) {
      if (other->last < storage->first || storage->last < other->first) continue;
      if (other->offset >= offset + Room(storage->bytes)) break;
      offset = std::max(offset, other->offset + Room(other->bytes));
    }
    storage->offset = offset;
    total = std::max(total, offset + Room(storage->bytes));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), storage,
                                   [](const Storage* a, const Storage* b) {
                                     return a->offset < b->offset;
                                   }),
                  storage);
  }
  if (total > 0) plan_->block_ = plan_->arena_->Take(total);
}

void Recorder::Bind() {
  for (const Operand& operand : operands_) {
    const Place& place = operand.place;
    if (place.base == Base::kFixed) continue;
    Plan::Moving moving{Raw(operand.tensor), place.offset};
    if (place.base == Base::kInput) {
      plan_->inputs_[place.index].push_back(moving);
      continue;
    }
    const Storage& storage = storages_[place.index];
    if (storage.output >= 0) {
      plan_->outputs_[storage.output].tensors.push_back(moving);
    } else {
      moving.tensor->data =
          static_cast<char*>(plan_->block_.data) + storage.offset + place.offset;
    }
  }
}

}  // namespace burnish
