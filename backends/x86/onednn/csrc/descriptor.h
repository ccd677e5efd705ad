// What one oneDNN operation of a model computes, as the compiler writes it into the artifact.
#ifndef BURNISH_ONEDNN_DESCRIPTOR_H_
#define BURNISH_ONEDNN_DESCRIPTOR_H_

#include <array>
#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <vector>

namespace burnish::onednn {

// A step of an epilogue.
struct PostOp {
  dnnl::algorithm algorithm;
  // Of an elementwise step.
  float alpha = 0, beta = 0;
  // Of a binary step, whose second operand is a tensor: "channel", "full" or "scalar"; else empty.
  std::string operand;
  // Element type of that tensor.
  dnnl::memory::data_type type = dnnl::memory::data_type::f32;
};

enum class Kind { kMatmul, kBatchMatmul, kConv };

// The geometry of a convolution with two spatial axes.
struct Window {
  std::array<int64_t, 2> kernel, strides, dilations;
  std::array<int64_t, 4> pads;  // top, left, bottom, right
};

struct Descriptor {
  std::string name;
  Kind kind;
  dnnl::memory::data_type source, weights, result;
  // Whether a bias of one value a channel is the argument after the weights.
  bool bias;
  // The number that stands for 0 in the source, if that is an integer.
  int32_t zero_point = 0;
  std::vector<PostOp> post_ops;
  // Of a product with constant weights [depth, columns]: the columns of one primitive.
  int64_t depth = 0, columns = 0, column_block = 0;
  // Of a product of two computed tensors: whether the second is [..., N, K].
  bool transposed = false;
  // Of a convolution: channels of a group in, of all groups out.
  int64_t groups = 1, channels_in = 0, channels_out = 0;
  Window window{};

  int64_t num_operands() const;
};

// The operations of an artifact, from their JSON form.
std::vector<Descriptor> ParseDescriptors(const std::string& text);

}  // namespace burnish::onednn

#endif  // BURNISH_ONEDNN_DESCRIPTOR_H_
