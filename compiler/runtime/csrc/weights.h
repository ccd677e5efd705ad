// Where the weights of a model lie in its weights file (safetensors).
#ifndef BURNISH_WEIGHTS_H_
#define BURNISH_WEIGHTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "manifest.h"

namespace burnish {

// The header of a safetensors file (https://github.com/huggingface/safetensors): for each tensor its
// type, its shape and the absolute begin and end of its bytes, which lie in the file.
struct WeightsHeader {
  struct Entry {
    std::string name, type;
    std::vector<int64_t> shape;
    uint64_t begin, end;
  };
  std::string bytes;           // length and JSON, as they are in the file
  std::vector<Entry> entries;  // in the order of the file, without those that fill gaps
};

WeightsHeader ReadWeightsHeader(const std::string& path);

// SHA-256 of the header and of the first and last 4 KiB of every tensor, as burnish.artifact.weights
// computes it.
std::string QuickDigest(const std::string& path, const WeightsHeader& header);

// Offset in the file of each of the manifest's weights.
std::vector<uint64_t> WeightOffsets(const WeightsHeader& header,
                                    const std::vector<TensorInfo>& weights);

}  // namespace burnish

#endif  // BURNISH_WEIGHTS_H_
