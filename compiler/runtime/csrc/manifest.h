// What the runtime has to know of an artifact: a part of its manifest.json.
#ifndef BURNISH_MANIFEST_H_
#define BURNISH_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "burnish_runtime.h"

namespace burnish {

// An element type: its names in the manifest and in a safetensors header (NULL: not in there).
struct DataType {
  const char* name;
  const char* safetensors;
  BurnishDType dtype;
};

// The row of a name in the manifest; NULL if there is none.
const DataType* FindDataType(const std::string& name);

// A dimension: its size, or -1 and the text of a symbolic one (empty if nothing is known of it).
struct Dim {
  int64_t size;
  std::string text;
};

struct TensorInfo {
  std::string name;
  const DataType* type;
  std::vector<Dim> shape;
};

// "name: float32[batch, 3]", for messages.
std::string Describe(const TensorInfo& info);

struct Condition {
  std::string kind, left, right, node;
};

struct FileInfo {
  int64_t size;
  std::string sha256, quick;
};

struct Manifest {
  std::string model_name;
  std::string isa, machine, device;
  std::vector<std::string> features;
  std::vector<std::string> libraries;  // whose operations the model calls
  std::vector<TensorInfo> inputs, outputs, weights;
  std::map<std::string, std::pair<int64_t, int64_t>> symbols;
  std::vector<Condition> conditions;
  std::map<std::string, FileInfo> files;
};

// Reads and checks the manifest at `path`. Throws Failure.
Manifest ReadManifest(const std::string& path);

}  // namespace burnish

#endif  // BURNISH_MANIFEST_H_
