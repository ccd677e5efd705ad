#include "weights.h"

#include <algorithm>
#include <fstream>
#include <map>

#include "failure.h"
#include "json.h"
#include "sha256.h"

namespace burnish {
namespace {

constexpr size_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr uint64_t kSample = 4096;

uint64_t FileSize(std::ifstream* file) {
  file->seekg(0, std::ios::end);
  return static_cast<uint64_t>(file->tellg());
}

uint64_t HeaderLength(const std::string& bytes) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  return length;
}

}  // namespace

WeightsHeader ReadWeightsHeader(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure(BURNISH_INVALID, "cannot open " + path);
  uint64_t size = FileSize(&file);
  std::string start = ReadFile(path, 8);
  uint64_t length = start.size() == 8 ? HeaderLength(start) : 0;
  if (start.size() < 8 || length > std::min<uint64_t>(size - 8, kMaxHeader)) {
    throw Failure(BURNISH_INVALID, "the weights file is truncated: the artifact is damaged");
  }
  WeightsHeader header{ReadFile(path, 8 + length), {}};
  uint64_t origin = 8 + length;
  Json json = Json::Parse(header.bytes.substr(8), "the header of the weights file");
  json.ForEach([&](const std::string& name, const Json& value) {
    if (name.rfind("_padding.", 0) == 0 || name == "__metadata__") return;
    WeightsHeader::Entry entry{name, value["dtype"].String(), {}, 0, 0};
    value["shape"].ForEachItem([&](const Json& dim) { entry.shape.push_back(dim.Int()); });
    std::vector<int64_t> ends;
    value["data_offsets"].ForEachItem([&](const Json& end) { ends.push_back(end.Int()); });
    if (ends.size() != 2 || ends[0] < 0 || ends[1] < ends[0] ||
        static_cast<uint64_t>(ends[1]) > size - origin) {
      value.Fail("does not lie in the file");
    }
    entry.begin = origin + static_cast<uint64_t>(ends[0]);
    entry.end = origin + static_cast<uint64_t>(ends[1]);
    header.entries.push_back(std::move(entry));
  });
  return header;
}

std::string QuickDigest(const std::string& path, const WeightsHeader& header) {
  std::ifstream file(path, std::ios::binary);
  Sha256 digest;
  digest.Update(header.bytes.data(), header.bytes.size());
  std::string sample(kSample, '\0');
  for (const WeightsHeader::Entry& entry : header.entries) {
    uint64_t last = entry.end - std::min(kSample, entry.end - entry.begin);
    for (uint64_t begin : {entry.begin, last}) {
      auto bytes = static_cast<std::streamsize>(std::min(kSample, entry.end - begin));
      file.seekg(static_cast<std::streamoff>(begin));
      file.read(&sample[0], bytes);
      if (file.gcount() != bytes) throw Failure(BURNISH_INVALID, "cannot read " + path);
      digest.Update(sample.data(), static_cast<size_t>(bytes));
    }
  }
  return digest.Hex();
}

std::vector<uint64_t> WeightOffsets(const WeightsHeader& header,
                                    const std::vector<TensorInfo>& weights) {
  std::map<std::string, const WeightsHeader::Entry*> by_name;
  for (const WeightsHeader::Entry& entry : header.entries) by_name[entry.name] = &entry;
  std::vector<uint64_t> offsets;
  for (const TensorInfo& weight : weights) {
    auto found = by_name.find(weight.name);
    std::vector<int64_t> shape;
    for (const Dim& dim : weight.shape) shape.push_back(dim.size);
    const char* type = weight.type->safetensors;
    if (found == by_name.end() || type == nullptr || found->second->type != type ||
        found->second->shape != shape) {
      throw Failure(BURNISH_INVALID, "the weights file and the manifest disagree about '" +
                                         weight.name + "': the artifact is damaged");
    }
    offsets.push_back(found->second->begin);
  }
  return offsets;
}

}  // namespace burnish
