// The part of the C interface that is about artifacts.
#include <memory>

#include "burnish_runtime.h"
#include "failure.h"
#include "model.h"

struct BurnishModel {
  burnish::Model impl;
};

extern "C" {

int burnish_model_load(const char* path, int32_t device_id, BurnishModel** model) {
  return burnish::Guarded([&] { *model = new BurnishModel{{path, device_id}}; });
}

void burnish_model_free(BurnishModel* model) { delete model; }

int32_t burnish_model_num_inputs(const BurnishModel* model) {
  return static_cast<int32_t>(model->impl.inputs().size());
}

int32_t burnish_model_num_outputs(const BurnishModel* model) {
  return static_cast<int32_t>(model->impl.outputs().size());
}

const BurnishTensorInfo* burnish_model_inputs(const BurnishModel* model) {
  return model->impl.inputs().data();
}

const BurnishTensorInfo* burnish_model_outputs(const BurnishModel* model) {
  return model->impl.outputs().data();
}

int burnish_model_run(BurnishModel* model, const void* const* data, const int32_t* ndims,
                      const int64_t* shapes, int32_t threads, BurnishTensor* outputs) {
  return burnish::Guarded([&] { model->impl.Run(data, ndims, shapes, threads, outputs); });
}

}  // extern "C"
