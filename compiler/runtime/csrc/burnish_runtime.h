/*
 * C interface of the burnish runtime: load a compiled model, run it, time its kernels.
 *
 * The library needs libtvm_ffi and libtvm_runtime and nothing of Python. Both have to be in the
 * process, with global symbols, before it is loaded: it replaces TVM's thread pool by its
 * own, and the registration that comes last counts.
 *
 * Every function that returns int returns 0 on success; otherwise burnish_last_error() of the same
 * thread says what went wrong. A session may be used from several threads at once.
 */
#ifndef BURNISH_RUNTIME_H_
#define BURNISH_RUNTIME_H_

#include <stdint.h>

#define BURNISH_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct BurnishSession BurnishSession;

/* DLPack's data type: code (DLDataTypeCode), bits and lanes. */
typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} BurnishDType;

/* Dtype and rank of an input of the model. */
typedef struct {
  BurnishDType dtype;
  int32_t ndim;
} BurnishInputSpec;

/* A weight: where it lies in the weights file. `shape` is only read while the session is made. */
typedef struct {
  BurnishDType dtype;
  int32_t ndim;
  const int64_t* shape;
  uint64_t offset;
} BurnishWeightSpec;

/* An output. `handle` owns the data and the shape; give it to burnish_tensor_release. */
typedef struct {
  void* handle;
  void* data;
  const int64_t* shape;
  int32_t ndim;
  BurnishDType dtype;
} BurnishTensor;

/* One call of a kernel, or of a function of the virtual machine ("vm.builtin...."), in a profiled
 * run. `name` lives as long as the session. Times are in nanoseconds since the run began. */
typedef struct {
  const char* name;
  int64_t start_ns;
  int64_t duration_ns;
} BurnishKernelTime;

/* The message of the last failure in this thread. */
BURNISH_API const char* burnish_last_error(void);

/* CPUs that this process may use: those of its affinity mask, limited by its cgroup's quota. */
BURNISH_API int burnish_default_threads(void);

/*
 * Load a model library and map its weights.
 *
 * `library_path` must contain a slash. `weights_path` may be NULL if there are no weights. The
 * model's function "main" takes the inputs and then the weights, both in the order given here.
 */
BURNISH_API int burnish_session_create(const char* library_path, const char* weights_path,
                                       const BurnishInputSpec* inputs, int32_t num_inputs,
                                       const BurnishWeightSpec* weights, int32_t num_weights,
                                       int32_t num_outputs, BurnishSession** session);

/* Free the session. No run of it may be under way. Outputs that are still held stay valid. */
BURNISH_API void burnish_session_free(BurnishSession* session);

/*
 * Run the model once.
 *
 * `data` has a pointer to the contiguous elements of each input, `shapes` the shapes of all inputs
 * one after the other. The inputs are only read, and only during the call. `outputs` has room for
 * the session's num_outputs.
 */
BURNISH_API int burnish_session_run(BurnishSession* session, const void* const* data,
                                    const int64_t* shapes, int32_t threads,
                                    BurnishTensor* outputs);

/* As burnish_session_run, with the time of every kernel; fails if there are more than `capacity`. */
BURNISH_API int burnish_session_profile(BurnishSession* session, const void* const* data,
                                        const int64_t* shapes, int32_t threads,
                                        BurnishTensor* outputs, BurnishKernelTime* times,
                                        int64_t capacity, int64_t* num_times);

/* Bytes that the session's allocator has taken from the system. */
BURNISH_API int64_t burnish_session_memory(const BurnishSession* session);

/* Give up an output. */
BURNISH_API void burnish_tensor_release(void* handle);

#ifdef __cplusplus
}
#endif

#endif  // BURNISH_RUNTIME_H_
