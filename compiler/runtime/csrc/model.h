// An artifact that was checked and loaded, and the checks of what it is called with.
#ifndef BURNISH_MODEL_H_
#define BURNISH_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "burnish_runtime.h"
#include "manifest.h"
#include "session.h"

namespace burnish {

class Model {
 public:
  // Loads the artifact in the folder `path`. Throws Failure.
  Model(const std::string& path, int device_id);

  void Run(const void* const* data, const int32_t* ndims, const int64_t* shapes, int threads,
           BurnishTensor* outputs);
  const std::vector<BurnishTensorInfo>& inputs() const { return inputs_.infos; }
  const std::vector<BurnishTensorInfo>& outputs() const { return outputs_.infos; }

 private:
  // The C form of tensor infos, and what it points to.
  struct Infos {
    explicit Infos(const std::vector<TensorInfo>& tensors);
    std::vector<std::vector<int64_t>> shapes;
    std::vector<std::vector<const char*>> dims;
    std::vector<BurnishTensorInfo> infos;
  };

  void CheckInputs(const int32_t* ndims, const int64_t* shapes) const;

  Manifest manifest_;
  Infos inputs_;
  Infos outputs_;
  std::unique_ptr<Session> session_;
};

}  // namespace burnish

#endif  // BURNISH_MODEL_H_
