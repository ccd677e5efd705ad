// The modules with the oneDNN operations of an artifact, and what the compiler asks of oneDNN.

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/ffi/tvm_ffi.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "descriptor.h"
#include "operation.h"

namespace ffi = tvm::ffi;

namespace burnish::onednn {
namespace {

// The operations of one loaded model, with its packed weights and primitives.
class SessionObj : public ffi::ModuleObj {
 public:
  explicit SessionObj(std::vector<Descriptor> descriptors) {
    for (Descriptor& descriptor : descriptors) {
      std::string name = descriptor.name;
      operations_[name] = Operation::Make(std::move(descriptor));
    }
  }
  const char* kind() const final { return "burnish_onednn_session"; }
  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    auto found = operations_.find(std::string(name));
    if (found == operations_.end()) return std::nullopt;
    std::shared_ptr<Operation> operation = found->second;
    return ffi::Function::FromPacked(
        [operation](ffi::PackedArgs args, ffi::Any*) { operation->Call(args); });
  }

 private:
  std::map<std::string, std::shared_ptr<Operation>> operations_;
};

// The part of a model library that lists its operations. Each session of the model has its own,
// which the runtime gets from "burnish.open_session".
class LibraryObj : public ffi::ModuleObj {
 public:
  explicit LibraryObj(std::string text) : text_(std::move(text)) {}
  const char* kind() const final { return "burnish_onednn"; }
  int GetPropertyMask() const final { return ffi::Module::kBinarySerializable; }
  ffi::Bytes SaveToBytes() const final { return ffi::Bytes(text_); }
  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    if (name != "burnish.open_session") return std::nullopt;
    return ffi::Function::FromTyped(
        [text = text_] { return ffi::Module(ffi::make_object<SessionObj>(ParseDescriptors(text))); });
  }

 private:
  std::string text_;
};

ffi::Module Library(const ffi::Bytes& text) {
  std::string list(text.data(), text.size());
  // What is damaged is refused here, and not when it is called.
  ParseDescriptors(list);
  return ffi::Module(ffi::make_object<LibraryObj>(std::move(list)));
}

// The implementation that oneDNN takes for the operation of a list of one; raises an error if it
// has none.
ffi::String Implementation(const ffi::Bytes& text, const ffi::Shape& sizes) {
  std::vector<Descriptor> descriptors = ParseDescriptors(std::string(text.data(), text.size()));
  std::unique_ptr<Operation> operation = Operation::Make(descriptors.at(0));
  return operation->Implementation(std::vector<int64_t>(sizes.begin(), sizes.end()));
}

// Has oneDNN take nothing beyond AVX2; false if it is too late for that.
bool LimitToAvx2() {
  return dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2) == dnnl_success;
}

ffi::String Version() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = ffi::reflection;
  refl::GlobalDef()
      .def("ffi.Module.load_from_bytes.burnish_onednn", Library)
      .def("burnish.onednn.library", Library)
      .def("burnish.onednn.implementation", Implementation)
      .def("burnish.onednn.limit_to_avx2", LimitToAvx2)
      .def("burnish.onednn.version", Version);
}

}  // namespace
}  // namespace burnish::onednn
