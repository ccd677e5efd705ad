#include "descriptor.h"

#include <algorithm>
#include <map>
#include <utility>

#include "json.h"

namespace burnish::onednn {
namespace {

using Algorithm = dnnl::algorithm;
using DataType = dnnl::memory::data_type;

template <typename T>
T Named(const std::map<std::string, T>& names, const Json& value) {
  auto found = names.find(value.String());
  if (found == names.end()) value.Fail("is '" + value.String() + "', which is not known");
  return found->second;
}

const std::map<std::string, Kind> kKinds = {
    {"matmul", Kind::kMatmul}, {"batch_matmul", Kind::kBatchMatmul}, {"conv", Kind::kConv}};

const std::map<std::string, DataType> kTypes = {
    {"f32", DataType::f32}, {"bf16", DataType::bf16}, {"f16", DataType::f16},
    {"s32", DataType::s32}, {"u8", DataType::u8},     {"s8", DataType::s8}};

const std::map<std::string, Algorithm> kAlgorithms = {
    {"relu", Algorithm::eltwise_relu},
    {"logistic", Algorithm::eltwise_logistic},
    {"tanh", Algorithm::eltwise_tanh},
    {"gelu_erf", Algorithm::eltwise_gelu_erf},
    {"gelu_tanh", Algorithm::eltwise_gelu_tanh},
    {"swish", Algorithm::eltwise_swish},
    {"hardswish", Algorithm::eltwise_hardswish},
    {"hardsigmoid", Algorithm::eltwise_hardsigmoid},
    {"elu", Algorithm::eltwise_elu},
    {"clip", Algorithm::eltwise_clip},
    {"linear", Algorithm::eltwise_linear},
    {"abs", Algorithm::eltwise_abs},
    {"sqrt", Algorithm::eltwise_sqrt},
    {"exp", Algorithm::eltwise_exp},
    {"soft_relu", Algorithm::eltwise_soft_relu},
    {"add", Algorithm::binary_add},
    {"sub", Algorithm::binary_sub},
    {"mul", Algorithm::binary_mul},
    {"div", Algorithm::binary_div},
    {"max", Algorithm::binary_max},
    {"min", Algorithm::binary_min}};

template <size_t kCount>
std::array<int64_t, kCount> Ints(const Json& list) {
  std::vector<int64_t> found;
  list.ForEachItem([&](const Json& item) { found.push_back(item.Int()); });
  if (found.size() != kCount) list.Fail("has the wrong length");
  std::array<int64_t, kCount> result{};
  std::copy(found.begin(), found.end(), result.begin());
  return result;
}

Descriptor Parse(const Json& json) {
  Descriptor op;
  op.name = json["name"].String();
  op.kind = Named(kKinds, json["kind"]);
  op.source = Named(kTypes, json["source"]);
  op.weights = Named(kTypes, json["weights"]);
  op.result = Named(kTypes, json["result"]);
  op.bias = json["bias"].Int() != 0;
  op.zero_point = static_cast<int32_t>(json["zero_point"].Int());
  json["post_ops"].ForEachItem([&](const Json& item) {
    PostOp post_op;
    post_op.algorithm = Named(kAlgorithms, item["algorithm"]);
    post_op.alpha = static_cast<float>(item["alpha"].Number());
    post_op.beta = static_cast<float>(item["beta"].Number());
    post_op.operand = item["operand"].String();
    if (!post_op.operand.empty()) post_op.type = Named(kTypes, item["type"]);
    op.post_ops.push_back(std::move(post_op));
  });
  if (op.kind == Kind::kMatmul) {
    op.depth = json["depth"].Int();
    op.columns = json["columns"].Int();
    op.column_block = json["column_block"].Int();
  } else if (op.kind == Kind::kBatchMatmul) {
    op.transposed = json["transposed"].Int() != 0;
  } else {
    op.groups = json["groups"].Int();
    op.channels_in = json["channels_in"].Int();
    op.channels_out = json["channels_out"].Int();
    op.window = {Ints<2>(json["kernel"]), Ints<2>(json["strides"]), Ints<2>(json["dilations"]),
                 Ints<4>(json["pads"])};
  }
  return op;
}

}  // namespace

int64_t Descriptor::num_operands() const {
  return std::count_if(post_ops.begin(), post_ops.end(),
                       [](const PostOp& post_op) { return !post_op.operand.empty(); });
}

std::vector<Descriptor> ParseDescriptors(const std::string& text) {
  std::vector<Descriptor> operations;
  Json::Parse(text, "the list of oneDNN operations").ForEachItem([&](const Json& item) {
    operations.push_back(Parse(item));
  });
  return operations;
}

}  // namespace burnish::onednn
