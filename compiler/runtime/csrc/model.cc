#include "model.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <map>
#include <utility>

#include "dims.h"
#include "failure.h"
#include "json.h"
#include "machine.h"
#include "sha256.h"
#include "weights.h"

namespace burnish {
namespace {

constexpr const char* kManifest = "/manifest.json";
constexpr const char* kLibrary = "model.so";
constexpr const char* kWeights = "weights.safetensors";

using Sizes = std::map<std::string, int64_t>;

[[noreturn]] void Refuse(const std::string& message) { throw Failure(BURNISH_INVALID, message); }

Manifest Read(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) Refuse("no such file or folder: " + path);
  if (stat((path + kManifest).c_str(), &status) != 0) {
    Refuse("not an artifact, it has no manifest.json: " + path);
  }
  return ReadManifest(path + kManifest);
}

void CheckMachine(const Manifest& manifest) {
  if (manifest.machine != MachineName()) {
    Refuse("the artifact was compiled for " + manifest.machine + ", this machine is " +
           MachineName());
  }
  std::string missing;
  for (const std::string& name : manifest.features) {
    if (CpuFeatures().count(name) == 0) missing += (missing.empty() ? "" : ", ") + name;
  }
  if (!missing.empty()) {
    Refuse("this CPU lacks what the artifact was compiled for (" + manifest.isa + "): " + missing);
  }
}

// Loads the libraries beside this one whose operations the model calls.
void LoadLibraries(const Manifest& manifest) {
  for (const std::string& name : manifest.libraries) {
    if (name != "onednn") {
      throw Failure(BURNISH_UNAVAILABLE, "the model was compiled with the library " + name +
                                             ", which this runtime does not know");
    }
    if (dlopen("libburnish_onednn.so", RTLD_NOW | RTLD_LOCAL) == nullptr) {
      throw Failure(BURNISH_UNAVAILABLE,
                    "the model was compiled with oneDNN, which cannot be loaded (burnish runner "
                    "--library onednn puts it beside the program): " +
                        std::string(dlerror()));
    }
  }
}

// What the manifest says of a file, after a check that the file is there and of its size.
const FileInfo& CheckSize(const Manifest& manifest, const std::string& path, const char* name) {
  auto found = manifest.files.find(name);
  std::string file = path + "/" + name;
  struct stat status;
  if (found == manifest.files.end() || stat(file.c_str(), &status) != 0) {
    Refuse("the artifact has no " + std::string(name));
  }
  if (status.st_size != found->second.size) {
    Refuse(std::string(name) + " has " + std::to_string(status.st_size) + " bytes instead of " +
           std::to_string(found->second.size) + ": the artifact is damaged");
  }
  return found->second;
}

void CheckDigest(const char* name, const std::string& found, const std::string& expected) {
  if (found != expected) {
    Refuse(std::string(name) + " was changed after it was written: the artifact is damaged");
  }
}

std::string DigestOf(const std::string& content) {
  Sha256 digest;
  digest.Update(content.data(), content.size());
  return digest.Hex();
}

std::unique_ptr<Session> Open(const Manifest& manifest, const std::string& path, int device_id) {
  if (manifest.device != "cpu" && manifest.device != "cuda") {
    throw Failure(BURNISH_UNAVAILABLE, "the model was compiled for the device " + manifest.device +
                                           ", which this runtime does not have");
  }
  bool cuda = manifest.device == "cuda";
  BurnishDevice device{cuda ? kDLCUDA : kDLCPU, device_id, cuda ? manifest.isa.c_str() : nullptr};
  std::string library = path + "/" + kLibrary;
  CheckDigest(kLibrary, DigestOf(ReadFile(library)), CheckSize(manifest, path, kLibrary).sha256);
  std::string weights = path + "/" + kWeights;
  const FileInfo& info = CheckSize(manifest, path, kWeights);
  WeightsHeader header = ReadWeightsHeader(weights);
  CheckDigest(kWeights, QuickDigest(weights, header), info.quick);
  std::vector<uint64_t> offsets = WeightOffsets(header, manifest.weights);

  std::vector<BurnishInputSpec> inputs;
  for (const TensorInfo& input : manifest.inputs) {
    inputs.push_back({input.type->dtype, static_cast<int32_t>(input.shape.size())});
  }
  std::vector<std::vector<int64_t>> shapes;
  for (const TensorInfo& weight : manifest.weights) {
    shapes.emplace_back();
    for (const Dim& dim : weight.shape) shapes.back().push_back(dim.size);
  }
  std::vector<BurnishWeightSpec> specs;
  for (size_t i = 0; i < shapes.size(); ++i) {
    specs.push_back({manifest.weights[i].type->dtype, static_cast<int32_t>(shapes[i].size()),
                     shapes[i].data(), offsets[i]});
  }
  // Without a slash in its name the loader would look for the library in the system's folders.
  std::string file = library[0] == '/' ? library : "./" + library;
  return std::make_unique<Session>(device, file, specs.empty() ? nullptr : weights.c_str(),
                                   std::move(inputs), specs.data(),
                                   static_cast<int32_t>(specs.size()),
                                   static_cast<int32_t>(manifest.outputs.size()));
}

[[noreturn]] void WrongInput(const TensorInfo& input, const std::string& what) {
  throw Failure(BURNISH_FAILED, "the input '" + input.name + "' has a wrong " + what +
                                    "; the model takes " + Describe(input));
}

std::string Text(int64_t number) { return std::to_string(number); }

// Kernels trust the sizes that were inferred from the model; what inference assumed is checked here.
void CheckConditions(const Manifest& manifest, const Sizes& given) {
  Sizes names;
  for (const auto& [text, size] : given) {
    if (IsSymbol(text)) names[text] = size;
  }
  for (const auto& [text, size] : given) {
    int64_t expected = IsSymbol(text) ? size : EvaluateDim(text, names);
    if (expected != size) {
      throw Failure(BURNISH_FAILED, "the input sizes do not fit the model: " + text + " must be " +
                                        Text(expected) + ", got " + Text(size));
    }
  }
  for (const Condition& condition : manifest.conditions) {
    int64_t left = EvaluateDim(condition.left, names), right = EvaluateDim(condition.right, names);
    bool holds = condition.kind == "at_least"
                     ? left >= right
                     : left == right ||
                           (condition.kind == "broadcast" && (left == 1 || right == 1));
    if (!holds) {
      throw Failure(BURNISH_FAILED,
                    "the input sizes do not fit the model: " + condition.left +
                        (condition.kind == "at_least" ? " >= " : " == ") + condition.right +
                        (condition.kind == "broadcast" ? " (or one of them 1)" : "") +
                        " must hold, but these are " + Text(left) + " and " + Text(right) +
                        " (at " + condition.node + ")");
    }
  }
}

}  // namespace

Model::Infos::Infos(const std::vector<TensorInfo>& tensors) {
  for (const TensorInfo& tensor : tensors) {
    shapes.emplace_back();
    dims.emplace_back();
    for (const Dim& dim : tensor.shape) {
      shapes.back().push_back(dim.size);
      dims.back().push_back(dim.text.c_str());
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    infos.push_back({tensors[i].name.c_str(), tensors[i].type->dtype,
                     static_cast<int32_t>(shapes[i].size()), shapes[i].data(), dims[i].data()});
  }
}

Model::Model(const std::string& path, int device_id)
    : manifest_(Read(path)), inputs_(manifest_.inputs), outputs_(manifest_.outputs) {
  CheckMachine(manifest_);
  LoadLibraries(manifest_);
  session_ = Open(manifest_, path, device_id);
}

void Model::CheckInputs(const int32_t* ndims, const int64_t* shapes) const {
  Sizes sizes;
  for (size_t i = 0; i < manifest_.inputs.size(); shapes += ndims[i], ++i) {
    const TensorInfo& input = manifest_.inputs[i];
    if (ndims[i] != static_cast<int32_t>(input.shape.size())) {
      WrongInput(input, "rank: " + Text(ndims[i]));
    }
    for (int32_t axis = 0; axis < ndims[i]; ++axis) {
      const Dim& dim = input.shape[axis];
      int64_t size = shapes[axis];
      std::string what = "size of axis " + Text(axis) + ": " + Text(size);
      if (size < 0 || (dim.size >= 0 && dim.size != size)) WrongInput(input, what);
      if (dim.size >= 0 || dim.text.empty()) continue;
      auto bounds = manifest_.symbols.find(dim.text);
      if (bounds != manifest_.symbols.end() &&
          (size < bounds->second.first || size > bounds->second.second)) {
        WrongInput(input, what + " is not within " + Text(bounds->second.first) + " to " +
                              Text(bounds->second.second));
      }
      auto known = sizes.emplace(dim.text, size);
      if (known.first->second != size) {
        WrongInput(input, what + ", but " + dim.text + " is " + Text(known.first->second));
      }
    }
  }
  CheckConditions(manifest_, sizes);
}

void Model::Run(const void* const* data, const int32_t* ndims, const int64_t* shapes, int threads,
                BurnishTensor* outputs) {
  if (threads < 1) Refuse("the number of threads must be at least 1");
  CheckInputs(ndims, shapes);
  session_->Run(data, shapes, threads, outputs);
}

}  // namespace burnish
