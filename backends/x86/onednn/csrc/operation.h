// The oneDNN operations of a model: how each is divided over threads, and the primitives of the pieces.
#ifndef BURNISH_ONEDNN_OPERATION_H_
#define BURNISH_ONEDNN_OPERATION_H_

#include <tvm/ffi/tvm_ffi.h>

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "descriptor.h"
#include "primitive.h"

namespace burnish::onednn {

// What a call gets: the addresses of its tensors.
struct Tensors {
  char* source;
  char* weights;
  char* bias;
  std::vector<char*> operands;  // of the binary post-ops, in their order
  char* result;
};

// Where the result of a piece begins: its first element, and its first channel.
struct Place {
  int64_t element, channel;
};

// The memory that a primitive is made for.
struct Layouts {
  dnnl::memory::desc source, weights, bias, result;
  // Constant weights as the model has them, to be put into the primitive's own layout.
  dnnl::memory::desc plain;
  // Of convolutions: padding of rows and columns.
  dnnl::memory::dims before, after;
};

// A primitive, and the constant weights in its layout.
struct Prepared {
  std::unique_ptr<Primitive> primitive;
  std::shared_ptr<dnnl::memory> packed;
};

// Everything but the operation that a primitive depends on, and the address of the weights.
using Key = std::array<int64_t, 10>;

class Operation {
 public:
  static std::unique_ptr<Operation> Make(Descriptor descriptor);
  virtual ~Operation() = default;
  // Calls it with source, weights, bias if there is one, operands and result.
  void Call(tvm::ffi::PackedArgs args);
  // What oneDNN takes for certain sizes: rows; batch, rows, depth, columns; images, height, width.
  // Empty if it has nothing.
  std::string Implementation(const std::vector<int64_t>& sizes) const;
  const Descriptor& descriptor() const { return op_; }

 protected:
  explicit Operation(Descriptor descriptor) : op_(std::move(descriptor)) {}
  virtual void Run(const std::vector<const DLTensor*>& shapes, const Tensors& tensors) = 0;
  // The memory of a piece of the sizes that Implementation takes.
  virtual Layouts Typical(const std::vector<int64_t>& sizes) const = 0;

  // The primitive of a piece, made by `make` if there is none.
  std::shared_ptr<Prepared> Find(const Key& key,
                                 const std::function<std::unique_ptr<Prepared>()>& make);
  // Makes a primitive, and packs the weights if they are `constant`.
  std::unique_ptr<Prepared> Prepare(const Layouts& layouts, const void* constant);
  // What a primitive runs on, in the order of its slots.
  std::vector<void*> Data(char* source, void* weights, char* bias, const Tensors& tensors,
                          const Place& place) const;
  size_t SizeOf(dnnl::memory::data_type type) const { return dnnl::memory::data_type_size(type); }

  const Descriptor op_;

 private:
  virtual std::unique_ptr<dnnl::primitive_desc> Describe(
      const Layouts& layouts, const dnnl::primitive_attr& attributes) const = 0;
  // The post-ops for a layout; their operands are added to `operands`.
  dnnl::primitive_attr Attributes(const Layouts& layouts, std::vector<Slot>* operands) const;
  std::shared_ptr<dnnl::memory> Pack(const dnnl::memory::desc& plain, const void* constant,
                                     const dnnl::memory::desc& layout);

  struct Packed {
    dnnl::memory::desc plain, layout;
    const void* constant;
    std::weak_ptr<dnnl::memory> memory;
  };
  std::mutex mutex_;
  // The most recently used first.
  std::list<std::pair<Key, std::shared_ptr<Prepared>>> prepared_;
  std::vector<Packed> packed_;
};

}  // namespace burnish::onednn

#endif  // BURNISH_ONEDNN_OPERATION_H_
