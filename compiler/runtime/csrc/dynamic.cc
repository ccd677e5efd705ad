#include "dynamic.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/shape.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tensors.h"

namespace ffi = tvm::ffi;

namespace burnish {
namespace {

constexpr const char* kReadSizes = "burnish.read_sizes";
constexpr const char* kCheckSizes = "burnish.check_sizes";
constexpr const char* kLoop = "burnish.loop";

template <typename T>
const T* Elements(const ffi::Tensor& tensor) {
  return reinterpret_cast<const T*>(Address(tensor));
}

template <typename T>
T* MutableElements(const ffi::Tensor& tensor) {
  return const_cast<T*>(Elements<T>(tensor));
}

template <typename T>
T Scalar(const ffi::Tensor& tensor, const char* what) {
  if (tensor.shape().Product() != 1) {
    TVM_FFI_THROW(ValueError) << what << " of a loop has " << tensor.shape().Product()
                              << " elements instead of one";
  }
  return *Elements<T>(tensor);
}

std::string Listed(ffi::ShapeView sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
  }
  return text + "]";
}

void ReadSizes(ffi::PackedArgs args, ffi::Any* result) {
  ffi::Tensor tensor = args[0].cast<ffi::Tensor>();
  const int64_t* data = Elements<int64_t>(tensor);
  ffi::Shape sizes(data, data + tensor.shape().Product());
  bool valid = std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size >= 0; });
  if (!valid) {
    TVM_FFI_THROW(ValueError) << "the data ask for sizes that cannot be: "
                              << args[1].cast<ffi::String>() << " gives " << Listed(sizes)
                              << " (-1 stands for a size that does not fit)";
  }
  *result = sizes;
}

void CheckSizes(ffi::PackedArgs args, ffi::Any*) {
  ffi::Shape sizes = args[0].cast<ffi::Shape>();
  ffi::String kind = args[1].cast<ffi::String>();
  int64_t a = sizes[0], b = sizes[1];
  bool holds = kind == "at_least" ? a >= b : a == b || (kind == "broadcast" && (a == 1 || b == 1));
  if (!holds) {
    TVM_FFI_THROW(ValueError) << "sizes that depend on the data do not fit: "
                              << args[2].cast<ffi::String>() << ", but these are " << a << " and "
                              << b;
  }
}

// What a loop collects of one output of its body.
class Scanned {
 public:
  Scanned(ffi::Shape empty, DLDataType dtype) : empty_(std::move(empty)), dtype_(dtype) {}

  void Add(ffi::Tensor tensor) {
    if (!items_.empty()) {
      ffi::ShapeView first = items_.front().shape(), shape = tensor.shape();
      if (!std::equal(first.begin(), first.end(), shape.begin(), shape.end())) {
        TVM_FFI_THROW(ValueError) << "an output that a loop collects has the shape "
                                  << Listed(first) << " in its first iteration and "
                                  << Listed(shape) << " in a later one";
      }
    }
    items_.push_back(std::move(tensor));
  }

  // All items along a new first axis.
  ffi::Tensor Stack(const std::shared_ptr<Arena>& arena) const {
    if (items_.empty()) return AllocTensor(arena, empty_, dtype_);
    ffi::ShapeView shape = items_.front().shape();
    std::vector<int64_t> stacked{static_cast<int64_t>(items_.size())};
    stacked.insert(stacked.end(), shape.begin(), shape.end());
    ffi::Tensor result =
        AllocTensor(arena, ffi::ShapeView(stacked.data(), stacked.size()), dtype_);
    size_t bytes = ffi::GetDataSize(shape.Product(), dtype_);
    char* target = MutableElements<char>(result);
    for (const ffi::Tensor& item : items_) {
      if (bytes > 0) std::memcpy(target, Elements<char>(item), bytes);
      target += bytes;
    }
    return result;
  }

 private:
  ffi::Shape empty_;
  DLDataType dtype_;
  std::vector<ffi::Tensor> items_;
};

ffi::Tensor Iteration(const std::shared_ptr<Arena>& arena, int64_t index) {
  ffi::Tensor tensor = AllocTensor(arena, ffi::ShapeView(nullptr, 0), DLDataType{kDLInt, 64, 1});
  *MutableElements<int64_t>(tensor) = index;
  return tensor;
}

void Loop(const std::shared_ptr<Arena>& arena, ffi::PackedArgs args, ffi::Any* result) {
  static const ffi::Function invoke = ffi::Function::GetGlobalRequired("vm.builtin.invoke_closure");
  int next = 2;  // after the virtual machine and the body
  int64_t trips = Scalar<int64_t>(args[next++].cast<ffi::Tensor>(), "the number of iterations");
  ffi::Tensor condition = args[next++].cast<ffi::Tensor>();
  int carried = args[next++].cast<int>();
  std::vector<Scanned> scanned;
  for (int left = args[next++].cast<int>(); left > 0; --left, next += 2) {
    scanned.emplace_back(args[next].cast<ffi::Shape>(), args[next + 1].cast<DLDataType>());
  }
  // (vm, body, dims, iteration, condition, carried..., captured...)
  constexpr int kFixed = 5;
  int dims = next;
  std::vector<ffi::Any> call{args[0], args[1], args[dims], nullptr, condition};
  for (int i = dims + 1; i < args.size(); ++i) call.emplace_back(args[i]);
  for (int64_t step = 0; step < trips; ++step) {
    if (!Scalar<bool>(call[kFixed - 1].cast<ffi::Tensor>(), "the condition")) break;
    call[kFixed - 2] = Iteration(arena, step);
    std::vector<ffi::AnyView> views(call.begin(), call.end());
    ffi::Any returned;
    invoke.CallPacked(views.data(), static_cast<int32_t>(views.size()), &returned);
    ffi::Array<ffi::Any> items = returned.cast<ffi::Array<ffi::Any>>();
    for (int i = 0; i <= carried; ++i) call[kFixed - 1 + i] = items[i];
    for (size_t i = 0; i < scanned.size(); ++i) {
      scanned[i].Add(items[1 + carried + i].cast<ffi::Tensor>());
    }
  }
  ffi::Array<ffi::Any> outputs;
  for (int i = 0; i < carried; ++i) outputs.push_back(call[kFixed + i]);
  for (const Scanned& one : scanned) outputs.push_back(one.Stack(arena));
  *result = outputs;
}

}  // namespace

ffi::Optional<ffi::Function> DynamicFunction(const ffi::String& name,
                                             const std::shared_ptr<Arena>& arena) {
  if (name == kReadSizes) return ffi::Function::FromPacked(ReadSizes);
  if (name == kCheckSizes) return ffi::Function::FromPacked(CheckSizes);
  if (name == kLoop) {
    return ffi::Function::FromPacked(
        [arena](ffi::PackedArgs args, ffi::Any* result) { Loop(arena, args, result); });
  }
  return std::nullopt;
}

bool IsDataDependent(const char* name) {
  return std::strcmp(name, kReadSizes) == 0 || std::strcmp(name, kLoop) == 0;
}

bool IsSizeCheck(const char* name) { return std::strcmp(name, kCheckSizes) == 0; }

}  // namespace burnish
