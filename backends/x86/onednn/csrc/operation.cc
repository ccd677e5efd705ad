#include "operation.h"

#include <algorithm>
#include <utility>

#include "conv.h"
#include "matmul.h"

namespace ffi = tvm::ffi;

namespace burnish::onednn {
namespace {

// Primitives that an operation keeps: for the pieces of several sizes of its input.
constexpr size_t kKept = 64;

char* Address(const DLTensor* tensor) {
  return static_cast<char*>(tensor->data) + tensor->byte_offset;
}

// Memory of one value, one for each channel (the second axis of a picture, the last of a matrix), or
// of the result's shape.
dnnl::memory::desc OperandDesc(const PostOp& post_op, const dnnl::memory::desc& result) {
  if (post_op.operand == "full") {
    return dnnl::memory::desc(result.get_dims(), post_op.type, result.get_strides());
  }
  dnnl::memory::dims dims(result.get_ndims(), 1), strides(result.get_ndims(), 1);
  size_t axis = result.get_ndims() == 4 ? 1 : dims.size() - 1;
  if (post_op.operand == "channel") {
    dims[axis] = result.get_dims()[axis];
    for (size_t i = 0; i < axis; ++i) strides[i] = dims[axis];
  }
  return dnnl::memory::desc(dims, post_op.type, strides);
}

}  // namespace

std::unique_ptr<Operation> Operation::Make(Descriptor descriptor) {
  switch (descriptor.kind) {
    case Kind::kMatmul:
      return std::make_unique<Matmul>(std::move(descriptor));
    case Kind::kBatchMatmul:
      return std::make_unique<BatchMatmul>(std::move(descriptor));
    case Kind::kConv:
      return std::make_unique<Conv>(std::move(descriptor));
  }
  TVM_FFI_UNREACHABLE();
}

void Operation::Call(ffi::PackedArgs args) {
  int64_t inputs = 2 + op_.bias + op_.num_operands();
  if (args.size() != inputs + 1) {
    TVM_FFI_THROW(TypeError) << op_.name << " takes " << inputs + 1 << " tensors, got "
                             << args.size();
  }
  std::vector<const DLTensor*> all;
  for (int i = 0; i < args.size(); ++i) all.push_back(args[i].cast<DLTensor*>());
  Tensors tensors{};
  size_t next = 0;
  tensors.source = Address(all[next++]);
  tensors.weights = Address(all[next++]);
  if (op_.bias) tensors.bias = Address(all[next++]);
  while (next + 1 < all.size()) tensors.operands.push_back(Address(all[next++]));
  tensors.result = Address(all.back());
  const DLTensor* result = all.back();
  // Nothing is computed for a tensor without elements.
  if (std::find(result->shape, result->shape + result->ndim, 0) != result->shape + result->ndim) {
    return;
  }
  Run({all[0], all[1], result}, tensors);
}

std::string Operation::Implementation(const std::vector<int64_t>& sizes) const {
  OneThread one;
  Layouts layouts = Typical(sizes);
  std::vector<Slot> operands;
  try {
    return Describe(layouts, Attributes(layouts, &operands))->impl_info_str();
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_unimplemented) return "";
    throw;
  }
}

std::vector<void*> Operation::Data(char* source, void* weights, char* bias, const Tensors& tensors,
                                   const Place& place) const {
  std::vector<void*> data{source, weights};
  if (op_.bias) data.push_back(bias);
  if (op_.zero_point != 0) data.push_back(const_cast<int32_t*>(&op_.zero_point));
  size_t next = 0;
  for (const PostOp& post_op : op_.post_ops) {
    if (post_op.operand.empty()) continue;
    int64_t at = post_op.operand == "full" ? place.element
                 : post_op.operand == "channel" ? place.channel : 0;
    data.push_back(tensors.operands[next++] + at * SizeOf(post_op.type));
  }
  data.push_back(tensors.result + place.element * SizeOf(op_.result));
  return data;
}

std::shared_ptr<Prepared> Operation::Find(
    const Key& key, const std::function<std::unique_ptr<Prepared>()>& make) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto entry = prepared_.begin(); entry != prepared_.end(); ++entry) {
    if (entry->first != key) continue;
    if (entry != prepared_.begin()) prepared_.splice(prepared_.begin(), prepared_, entry);
    return entry->second;
  }
  prepared_.emplace_front(key, make());
  if (prepared_.size() > kKept) prepared_.pop_back();
  return prepared_.front().second;
}

dnnl::primitive_attr Operation::Attributes(const Layouts& layouts,
                                           std::vector<Slot>* operands) const {
  dnnl::post_ops post_ops;
  for (size_t i = 0; i < op_.post_ops.size(); ++i) {
    const PostOp& post_op = op_.post_ops[i];
    if (post_op.operand.empty()) {
      post_ops.append_eltwise(post_op.algorithm, post_op.alpha, post_op.beta);
      continue;
    }
    dnnl::memory::desc desc = OperandDesc(post_op, layouts.result);
    post_ops.append_binary(post_op.algorithm, desc);
    int argument = DNNL_ARG_ATTR_MULTIPLE_POST_OP(static_cast<int>(i)) | DNNL_ARG_SRC_1;
    operands->push_back({argument, desc});
  }
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(post_ops);
  if (op_.zero_point != 0) attributes.set_zero_points_mask(DNNL_ARG_SRC, 0);
  // The library's own would belong to the thread that makes the primitive.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

std::unique_ptr<Prepared> Operation::Prepare(const Layouts& layouts, const void* constant) {
  OneThread one;
  std::vector<Slot> operands;
  std::unique_ptr<dnnl::primitive_desc> desc = Describe(layouts, Attributes(layouts, &operands));
  std::vector<Slot> slots{{DNNL_ARG_SRC, desc->src_desc()}, {DNNL_ARG_WEIGHTS, desc->weights_desc()}};
  if (op_.bias) slots.push_back({DNNL_ARG_BIAS, layouts.bias});
  if (op_.zero_point != 0) {
    dnnl::memory::desc one({1}, dnnl::memory::data_type::s32, dnnl::memory::format_tag::x);
    slots.push_back({DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_SRC, one});
  }
  slots.insert(slots.end(), operands.begin(), operands.end());
  slots.push_back({DNNL_ARG_DST, desc->dst_desc()});
  auto prepared = std::make_unique<Prepared>();
  prepared->primitive = std::make_unique<Primitive>(*desc, std::move(slots));
  if (constant != nullptr) prepared->packed = Pack(layouts.plain, constant, desc->weights_desc());
  return prepared;
}

// Weights are packed once for all primitives that want the same layout.
std::shared_ptr<dnnl::memory> Operation::Pack(const dnnl::memory::desc& plain,
                                              const void* constant,
                                              const dnnl::memory::desc& layout) {
  for (auto entry = packed_.begin(); entry != packed_.end();) {
    std::shared_ptr<dnnl::memory> memory = entry->memory.lock();
    if (memory == nullptr) {
      entry = packed_.erase(entry);
      continue;
    }
    if (entry->constant == constant && entry->layout == layout && entry->plain == plain) {
      return memory;
    }
    ++entry;
  }
  auto memory = std::make_shared<dnnl::memory>(layout, Engine());
  Reorder(plain, constant, *memory);
  packed_.push_back({plain, layout, constant, memory});
  return memory;
}

}  // namespace burnish::onednn
