#include "session.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "failure.h"
#include "parallel.h"
#include "tensors.h"

namespace ffi = tvm::ffi;

namespace burnish {
namespace {

// TVM's AllocatorType::kPooled, for the little that does not come from the arena (shape heaps).
constexpr int kPooledAllocator = 2;
// A plan pays off if it is used for more runs than this; recording one takes as long as a few.
constexpr uint64_t kWorthwhile = 64;

// Kernels see bfloat16 as its bits.
DLDataType ToDLDataType(BurnishDType dtype) {
  return {dtype.code == kDLBfloat ? uint8_t{kDLUInt} : dtype.code, dtype.bits, dtype.lanes};
}

ffi::Function Lookup(const ffi::Module& module, const char* name) {
  ffi::Optional<ffi::Function> function = module->GetFunction(name);
  if (!function.has_value()) {
    throw std::runtime_error(std::string("the model library has no function ") + name);
  }
  return *function;
}

[[noreturn]] void FailOnFile(const char* what, const std::string& path) {
  throw std::runtime_error("cannot " + std::string(what) + " " + path + ": " +
                           std::strerror(errno));
}

}  // namespace

std::shared_ptr<ffi::Module> LoadLibrary(const std::string& path) {
  // Device, inode, size and time: what tells the loader, and us, one file from another.
  using Key = std::tuple<uint64_t, uint64_t, int64_t, int64_t>;
  static std::mutex* mutex = new std::mutex();
  static auto* loaded = new std::map<Key, std::weak_ptr<ffi::Module>>();
  struct stat status;
  if (stat(path.c_str(), &status) != 0) FailOnFile("read", path);
  Key key{status.st_dev, status.st_ino, status.st_size,
          status.st_mtim.tv_sec * 1000000000LL + status.st_mtim.tv_nsec};
  std::lock_guard<std::mutex> lock(*mutex);
  std::shared_ptr<ffi::Module> library = (*loaded)[key].lock();
  if (library == nullptr) {
    library = std::make_shared<ffi::Module>(ffi::Module::LoadFromFile(path));
    (*loaded)[key] = library;
  }
  return library;
}

MappedFile::MappedFile(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) FailOnFile("open", path);
  struct stat status;
  if (fstat(fd, &status) != 0) {
    close(fd);
    FailOnFile("read", path);
  }
  size_ = static_cast<uint64_t>(status.st_size);
  data_ = size_ == 0 ? nullptr : mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (data_ == MAP_FAILED) FailOnFile("map", path);
  // A file that is not in the page cache yet is read into huge pages, where its file system has them.
  if (data_ != nullptr) madvise(data_, size_, MADV_HUGEPAGE);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

void* MappedFile::At(uint64_t offset, uint64_t bytes) const {
  if (offset > size_ || bytes > size_ - offset) {
    throw std::runtime_error("a weight lies beyond the end of the weights file");
  }
  return static_cast<char*>(data_) + offset;
}

// A virtual machine for the time of one run.
class Session::Lease {
 public:
  explicit Lease(Session* session) : session_(session) {
    {
      std::lock_guard<std::mutex> lock(session->mutex_);
      if (!session->idle_.empty()) {
        instance_ = std::move(session->idle_.back());
        session->idle_.pop_back();
      }
    }
    if (instance_ == nullptr) instance_ = session->MakeInstance();
  }
  // A machine whose run failed may have frames left on its stack: it is not used again.
  ~Lease() {
    if (!done_) return;
    std::lock_guard<std::mutex> lock(session_->mutex_);
    session_->idle_.push_back(std::move(instance_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Instance* get() const { return instance_.get(); }
  void Done() { done_ = true; }

 private:
  Session* session_;
  std::unique_ptr<Instance> instance_;
  bool done_ = false;
};

std::unique_ptr<CudaDevice> OpenDevice(BurnishDevice device) {
  if (device.type == kDLCUDA) return std::make_unique<CudaDevice>(device.id, device.arch);
  if (device.type == kDLCPU && device.id == 0) return nullptr;
  throw Failure(BURNISH_UNAVAILABLE, "there is no device " + std::to_string(device.id) +
                                         " of the kind that the model was compiled for");
}

DeviceCopy::DeviceCopy(const CudaDevice& device, const MappedFile& file)
    : memory_(device.memory()), data_(memory_->Alloc(std::max<uint64_t>(file.size(), 1))) {
  device.Upload(data_, file.At(0, file.size()), file.size());
}

Session::Session(BurnishDevice device, const std::string& library_path, const char* weights_path,
                 std::vector<BurnishInputSpec> inputs, const BurnishWeightSpec* weights,
                 int32_t num_weights, int32_t num_outputs)
    : cuda_(OpenDevice(device)),
      arena_(std::make_shared<Arena>(HostMemory())),
      host_arena_(arena_),
      inputs_(std::move(inputs)),
      num_outputs_(num_outputs) {
  if (cuda_ != nullptr) arena_ = std::make_shared<Arena>(cuda_->memory());
  LoadWeights(weights_path, weights, num_weights);
  for (const BurnishInputSpec& input : inputs_) num_dims_ += input.ndim;
  // A GPU's inputs are copies whose allocation is part of the run.
  plannable_ = cuda_ == nullptr;
  executable_ = LoadLibrary(library_path);
  constexpr bool kInImports = true;
  auto open = (*executable_)->GetFunction("burnish.open_session", kInImports);
  if (open.has_value()) operations_ = (*open)().cast<ffi::Module>();
  idle_.push_back(MakeInstance());
}

void Session::LoadWeights(const char* path, const BurnishWeightSpec* weights,
                          int32_t num_weights) {
  if (path != nullptr) weights_file_ = std::make_unique<MappedFile>(path);
  if (cuda_ != nullptr && weights_file_ != nullptr) {
    device_weights_ = std::make_unique<DeviceCopy>(*cuda_, *weights_file_);
  }
  weights_.reserve(num_weights);
  for (int32_t i = 0; i < num_weights; ++i) {
    const BurnishWeightSpec& spec = weights[i];
    if (weights_file_ == nullptr) throw std::runtime_error("the model has weights but no file");
    ffi::ShapeView shape(spec.shape, spec.ndim);
    uint64_t bytes = ffi::GetDataSize(shape.Product(), ToDLDataType(spec.dtype));
    void* data = weights_file_->At(spec.offset, bytes);
    if (device_weights_ != nullptr) data = device_weights_->At(spec.offset);
    weights_.push_back(Borrow(data, shape, ToDLDataType(spec.dtype), arena_->device()));
  }
  if (cuda_ == nullptr) return;
  // The device has its copy.
  cuda_->Synchronize();
  weights_file_ = nullptr;
}

size_t Session::memory() const {
  return arena_->bytes() + (host_arena_ == arena_ ? 0 : host_arena_->bytes());
}

std::unique_ptr<Session::Instance> Session::MakeInstance() const {
  ffi::Module machine = Lookup(*executable_, "vm_load_executable")().cast<ffi::Module>();
  // The machine copied the executable's list of imports: ours is seen by this machine alone, so two
  // sessions of one library do not share an arena.
  machine->ImportModule(ArenaModule(arena_, host_arena_));
  if (operations_.has_value()) machine->ImportModule(*operations_);
  ffi::Function initialize = Lookup(machine, "vm_initialization");
  constexpr int kHost = kDLCPU;
  if (cuda_ == nullptr) {
    initialize(kHost, 0, kPooledAllocator);
  } else {
    DLDevice device = cuda_->device();
    initialize(static_cast<int>(device.device_type), device.device_id, kPooledAllocator, kHost, 0,
               kPooledAllocator);
  }
  ffi::Function main = Lookup(machine, "main");
  std::unique_ptr<Instance> instance(new Instance{std::move(machine), std::move(main)});
  instance->inputs.resize(inputs_.size());
  instance->args.resize(inputs_.size() + weights_.size());
  for (size_t i = 0; i < weights_.size(); ++i) instance->args[inputs_.size() + i] = weights_[i];
  return instance;
}

void Session::BindInputs(Instance* instance, const void* const* data,
                         const int64_t* shapes) const {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    ffi::Tensor& bound = instance->inputs[i];
    ffi::ShapeView shape(shapes, inputs_[i].ndim);
    shapes += inputs_[i].ndim;
    BindInput(&bound, shape, inputs_[i].dtype, const_cast<void*>(data[i]));
    instance->args[i] = bound;
  }
}

void Session::BindInput(ffi::Tensor* bound, ffi::ShapeView shape, BurnishDType dtype,
                        void* address) const {
  // The tensor of the last run serves again if nobody else holds it and the shape is the same.
  bool again = bound->defined() && bound->use_count() == 1 &&
               std::equal(shape.begin(), shape.end(), Raw(*bound)->shape);
  if (cuda_ != nullptr) {
    if (!again) *bound = AllocTensor(arena_, shape, ToDLDataType(dtype));
    cuda_->Upload(Address(*bound), address, ffi::GetDataSize(*Raw(*bound)));
  } else if (again) {
    Raw(*bound)->data = address;
  } else {
    *bound = Borrow(address, shape, ToDLDataType(dtype), arena_->device());
  }
}

void Session::TakeResult(const ffi::Any& result, std::vector<ffi::Tensor>* outputs) const {
  outputs->clear();
  if (auto tensor = result.try_cast<ffi::Tensor>()) {
    outputs->push_back(*tensor);
  } else {
    for (const ffi::Any& item : result.cast<ffi::Array<ffi::Any>>()) {
      outputs->push_back(item.cast<ffi::Tensor>());
    }
  }
  if (static_cast<int32_t>(outputs->size()) != num_outputs_) {
    throw std::runtime_error("the model returned " + std::to_string(outputs->size()) +
                             " outputs instead of " + std::to_string(num_outputs_));
  }
}

void Session::MakeOwn(std::vector<ffi::Tensor>* outputs) const {
  for (size_t i = 0; i < outputs->size(); ++i) {
    ffi::Tensor& tensor = (*outputs)[i];
    // An output may be an input, a weight, a constant or another output under a second name. The
    // caller owns what it gets and may write to it, so those are copied, as is what lies on a GPU.
    bool on_device = Raw(tensor)->device.device_type != kDLCPU;
    bool shared = on_device || !host_arena_->Owns(Address(tensor)) ||
                  std::any_of(outputs->begin(), outputs->begin() + i,
                              [&](const ffi::Tensor& other) {
                                return Address(other) == Address(tensor);
                              });
    if (!shared) continue;
    ffi::Tensor copy = AllocTensor(host_arena_, tensor.shape(), tensor.dtype());
    size_t bytes = ffi::GetDataSize(*Raw(tensor));
    if (on_device) {
      cuda_->Download(Address(copy), Address(tensor), bytes);
    } else if (bytes > 0) {
      std::memcpy(Address(copy), Address(tensor), bytes);
    }
    tensor = std::move(copy);
  }
  if (cuda_ != nullptr) cuda_->Synchronize();
}

void Session::Call(Instance* instance, const void* const* data, const int64_t* shapes) const {
  if (cuda_ != nullptr) cuda_->Use();
  BindInputs(instance, data, shapes);
  ffi::Any result;
  instance->main.CallPacked(instance->args.data(), static_cast<int32_t>(instance->args.size()),
                            &result);
  TakeResult(result, &instance->outputs);
}

// Counts runs of the same shapes in a row.
void Session::Count(Instance* instance, const int64_t* shapes) const {
  std::vector<int64_t>& last = instance->shapes;
  if (instance->runs > 0 && std::equal(last.begin(), last.end(), shapes)) {
    ++instance->runs;
    return;
  }
  last.assign(shapes, shapes + num_dims_);
  DropPlan(instance);
}

// Where plans do not last, the next one waits twice as long.
void Session::DropPlan(Instance* instance) const {
  if (instance->plan != nullptr) {
    bool worth = instance->runs > instance->patience + kWorthwhile;
    instance->patience = worth ? 2 : 2 * std::min(instance->patience, kWorthwhile);
    instance->plan = nullptr;
  }
  instance->runs = 1;
}

// Runs on a virtual machine of its own, since an instrument cannot be taken off again.
void Session::Record(Instance* instance, const void* const* data, const int64_t* shapes) {
  std::unique_ptr<Instance> watched = MakeInstance();
  BindInputs(watched.get(), data, shapes);
  Recorder recorder(watched->inputs);
  Lookup(watched->machine, "set_instrument")(recorder.instrument());
  Call(watched.get(), data, shapes);
  instance->plan = recorder.Finish(watched->outputs, arena_);
  if (instance->plan == nullptr) plannable_ = false;
  instance->outputs = std::move(watched->outputs);
}

// The caller gets the tensors.
void Session::HandOver(std::vector<ffi::Tensor>* tensors, BurnishTensor* outputs) const {
  for (size_t i = 0; i < tensors->size(); ++i) {
    ffi::Tensor& tensor = (*tensors)[i];
    const DLTensor* raw = Raw(tensor);
    outputs[i].data = Address(tensor);
    outputs[i].shape = raw->shape;
    outputs[i].ndim = raw->ndim;
    outputs[i].dtype = {raw->dtype.code, raw->dtype.bits, raw->dtype.lanes};
    outputs[i].handle = ffi::details::ObjectUnsafe::MoveObjectRefToTVMFFIObjectPtr(
        std::move(tensor));
  }
  arena_->EndRun();
  if (host_arena_ != arena_) host_arena_->EndRun();
}

void Session::Run(const void* const* data, const int64_t* shapes, int threads,
                  BurnishTensor* outputs) {
  ThreadScope scope(threads);
  Lease lease(this);
  Instance* instance = lease.get();
  Count(instance, shapes);
  if (instance->plan == nullptr || !instance->plan->Run(data, threads, &instance->outputs)) {
    if (instance->plan != nullptr) DropPlan(instance);
    if (instance->runs > instance->patience && plannable_) {
      Record(instance, data, shapes);
    } else {
      Call(instance, data, shapes);
    }
    MakeOwn(&instance->outputs);
  }
  HandOver(&instance->outputs, outputs);
  lease.Done();
}

int64_t Session::Profile(const void* const* data, const int64_t* shapes, int threads,
                         BurnishTensor* outputs, BurnishKernelTime* times, int64_t capacity) {
  using Clock = std::chrono::steady_clock;
  Lease lease(this);
  int64_t count = 0;
  Clock::time_point origin;
  std::unique_ptr<CudaTimeline> timeline;
  if (cuda_ != nullptr) timeline = std::make_unique<CudaTimeline>(*cuda_);
  // Nanoseconds since the origin; on a GPU the number of a mark, whose time is known afterwards.
  auto now = [&]() -> int64_t {
    if (timeline != nullptr) return timeline->Mark();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - origin).count();
  };
  // (function, name, before, result, arguments...), called before and after each function.
  ffi::Function instrument = ffi::Function::FromPacked([&](ffi::PackedArgs args, ffi::Any*) {
    if (args[2].cast<bool>()) {
      if (count < capacity) times[count] = {args[1].cast<const char*>(), now(), 0};
    } else {
      if (count < capacity) times[count].duration_ns = now();
      ++count;
    }
  });
  Lookup(lease.get()->machine, "set_instrument")(instrument);
  if (timeline != nullptr) timeline->Mark();
  origin = Clock::now();
  // The instrument refers to this frame: the lease is not marked done, so the machine goes with it.
  ThreadScope scope(threads);
  Call(lease.get(), data, shapes);
  MakeOwn(&lease.get()->outputs);
  HandOver(&lease.get()->outputs, outputs);
  if (count > capacity) {
    for (int32_t i = 0; i < num_outputs_; ++i) burnish_tensor_release(outputs[i].handle);
    throw std::runtime_error("the run has " + std::to_string(count) + " calls, more than " +
                             std::to_string(capacity));
  }
  std::vector<int64_t> marks;
  if (timeline != nullptr) marks = timeline->Read();
  for (int64_t i = 0; i < count; ++i) {
    int64_t begin = times[i].start_ns, end = times[i].duration_ns;
    times[i].start_ns = timeline == nullptr ? begin : marks[begin];
    times[i].duration_ns = timeline == nullptr ? end - begin : marks[end] - marks[begin];
  }
  return count;
}

}  // namespace burnish
