#include <tvm/ffi/tvm_ffi.h>

#include <memory>
#include <vector>

#include "burnish_runtime.h"
#include "failure.h"
#include "parallel.h"
#include "session.h"

struct BurnishSession {
  std::unique_ptr<burnish::Session> impl;
};

namespace {

// Runs when the library is loaded: later than libtvm_runtime, before any model.
[[maybe_unused]] const bool registered = [] {
  burnish::UsePool();
  return true;
}();

}  // namespace

extern "C" {

const char* burnish_last_error(void) { return burnish::LastError(); }

int burnish_default_threads(void) { return burnish::DefaultThreads(); }

int burnish_device_check(BurnishDevice device) {
  return burnish::Guarded([&] { burnish::OpenDevice(device); });
}

int burnish_session_create(BurnishDevice device, const char* library_path,
                           const char* weights_path, const BurnishInputSpec* inputs,
                           int32_t num_inputs, const BurnishWeightSpec* weights,
                           int32_t num_weights, int32_t num_outputs, BurnishSession** session) {
  return burnish::Guarded([&] {
    *session = new BurnishSession{std::make_unique<burnish::Session>(
        device, library_path, weights_path,
        std::vector<BurnishInputSpec>(inputs, inputs + num_inputs), weights, num_weights,
        num_outputs)};
  });
}

void burnish_session_free(BurnishSession* session) { delete session; }

int burnish_session_run(BurnishSession* session, const void* const* data, const int64_t* shapes,
                        int32_t threads, BurnishTensor* outputs) {
  return burnish::Guarded([&] { session->impl->Run(data, shapes, threads, outputs); });
}

int burnish_session_profile(BurnishSession* session, const void* const* data,
                            const int64_t* shapes, int32_t threads, BurnishTensor* outputs,
                            BurnishKernelTime* times, int64_t capacity, int64_t* num_times) {
  return burnish::Guarded([&] {
    *num_times = session->impl->Profile(data, shapes, threads, outputs, times, capacity);
  });
}

int64_t burnish_session_memory(const BurnishSession* session) {
  return static_cast<int64_t>(session->impl->memory());
}

void burnish_tensor_release(void* handle) { TVMFFIObjectDecRef(handle); }

}  // extern "C"
