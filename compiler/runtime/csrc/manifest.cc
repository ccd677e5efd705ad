#include "manifest.h"

#include <tvm/ffi/tvm_ffi.h>

#include "failure.h"
#include "json.h"

namespace burnish {
namespace {

constexpr DataType kTypes[] = {
    {"float64", "F64", {kDLFloat, 64, 1}},   {"float32", "F32", {kDLFloat, 32, 1}},
    {"float16", "F16", {kDLFloat, 16, 1}},   {"bfloat16", "BF16", {kDLBfloat, 16, 1}},
    {"int64", "I64", {kDLInt, 64, 1}},       {"int32", "I32", {kDLInt, 32, 1}},
    {"int16", "I16", {kDLInt, 16, 1}},       {"int8", "I8", {kDLInt, 8, 1}},
    {"uint64", "U64", {kDLUInt, 64, 1}},     {"uint32", "U32", {kDLUInt, 32, 1}},
    {"uint16", "U16", {kDLUInt, 16, 1}},     {"uint8", "U8", {kDLUInt, 8, 1}},
    {"bool", "BOOL", {kDLBool, 8, 1}},       {"complex64", nullptr, {kDLComplex, 64, 1}},
};

Dim ReadDim(const Json& value) {
  if (value.IsNull()) return {-1, ""};
  if (value.IsString()) return {-1, value.String()};
  int64_t size = value.Int();
  if (size < 0) value.Fail("is negative");
  return {size, std::to_string(size)};
}

std::vector<TensorInfo> ReadTensors(const Json& list) {
  std::vector<TensorInfo> tensors;
  list.ForEachItem([&](const Json& item) {
    TensorInfo info{item["name"].String(), FindDataType(item["dtype"].String()), {}};
    if (info.type == nullptr) item["dtype"].Fail("is no element type");
    item["shape"].ForEachItem([&](const Json& dim) { info.shape.push_back(ReadDim(dim)); });
    tensors.push_back(std::move(info));
  });
  return tensors;
}

Manifest Decode(const Json& json) {
  Manifest manifest;
  manifest.model_name = json["model_name"].String();
  Json target = json["target"];
  manifest.isa = target["isa"].String();
  manifest.machine = target["machine"].String();
  manifest.device = target["device"].String();
  target["features"].ForEachItem(
      [&](const Json& item) { manifest.features.push_back(item.String()); });
  json["libraries"].ForEachItem(
      [&](const Json& item) { manifest.libraries.push_back(item.String()); });
  manifest.inputs = ReadTensors(json["inputs"]);
  manifest.outputs = ReadTensors(json["outputs"]);
  manifest.weights = ReadTensors(json["weights"]);
  json["symbols"].ForEach([&](const std::string& name, const Json& bounds) {
    std::vector<int64_t> both;
    bounds.ForEachItem([&](const Json& bound) { both.push_back(bound.Int()); });
    if (both.size() != 2) bounds.Fail("is no pair of bounds");
    manifest.symbols[name] = {both[0], both[1]};
  });
  json["conditions"].ForEachItem([&](const Json& item) {
    manifest.conditions.push_back({item["kind"].String(), item["left"].String(),
                                   item["right"].String(), item["node"].String()});
  });
  json["files"].ForEach([&](const std::string& name, const Json& file) {
    manifest.files[name] = {file["size"].Int(), file["sha256"].String(), file["quick"].String()};
  });
  return manifest;
}

}  // namespace

const DataType* FindDataType(const std::string& name) {
  for (const DataType& row : kTypes) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

std::string Describe(const TensorInfo& info) {
  std::string dims;
  for (const Dim& dim : info.shape) {
    dims += (dims.empty() ? "" : ", ") + (dim.text.empty() ? "?" : dim.text);
  }
  return info.name + ": " + info.type->name + "[" + dims + "]";
}

Manifest ReadManifest(const std::string& path) {
  Json json = Json::Parse(ReadFile(path), "the manifest");
  int64_t version = json["schema_version"].Int();
  if (version != BURNISH_SCHEMA_VERSION) {
    throw Failure(BURNISH_INVALID,
                  "the artifact has schema version " + std::to_string(version) +
                      ", this runtime reads " + std::to_string(BURNISH_SCHEMA_VERSION) +
                      ": use the runtime of the burnish that compiled it");
  }
  return Decode(json);
}

}  // namespace burnish
