// Small helpers around tvm-ffi's tensors.
#ifndef BURNISH_TENSORS_H_
#define BURNISH_TENSORS_H_

#include <tvm/ffi/tvm_ffi.h>

namespace burnish {

// A tensor over memory that somebody else owns.
struct Borrowed {
  void* data;
  void AllocData(DLTensor* tensor) { tensor->data = data; }
  void FreeData(DLTensor*) {}
};

inline tvm::ffi::Tensor Borrow(void* data, tvm::ffi::ShapeView shape, DLDataType dtype,
                               DLDevice device) {
  return tvm::ffi::Tensor::FromNDAlloc(Borrowed{data}, shape, dtype, device);
}

inline DLTensor* Raw(const tvm::ffi::Tensor& tensor) {
  return static_cast<tvm::ffi::TensorObj*>(
      tvm::ffi::details::ObjectUnsafe::RawObjectPtrFromObjectRef(tensor));
}

// Address of the first element.
inline char* Address(const tvm::ffi::Tensor& tensor) {
  return static_cast<char*>(Raw(tensor)->data) + Raw(tensor)->byte_offset;
}

}  // namespace burnish

#endif  // BURNISH_TENSORS_H_
