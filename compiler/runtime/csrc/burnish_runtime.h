/*
 * C interface of the burnish runtime: load a compiled model, run it, time its kernels.
 *
 * The library needs libtvm_ffi and libtvm_runtime and nothing of Python. Both have to be in the
 * process, with global symbols, before it is loaded: it replaces TVM's thread pool by its
 * own, and the registration that comes last counts.
 *
 * Every function that returns int returns BURNISH_OK (0) or another BurnishStatus, and then
 * burnish_last_error() of the same thread says what went wrong. A session and a model may be used
 * from several threads at once.
 *
 * A program loads an artifact, the folder that `burnish compile` writes, as a BurnishModel, which
 * checks the artifact and the inputs of every call. A BurnishSession is the part below, for callers
 * that have made these checks themselves.
 */
#ifndef BURNISH_RUNTIME_H_
#define BURNISH_RUNTIME_H_

#include <stdint.h>

#define BURNISH_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the manifest that this runtime reads. */
#define BURNISH_SCHEMA_VERSION 4

/* What a function returns. The numbers are the exit codes of the burnish command. */
typedef enum {
  BURNISH_OK = 0,
  BURNISH_INVALID = 2,     /* a file or an argument is wrong: damaged, of another machine, ... */
  BURNISH_FAILED = 4,      /* the model failed, or does not take these inputs */
  BURNISH_UNAVAILABLE = 5  /* a library or a device is not available here */
} BurnishStatus;

typedef struct BurnishSession BurnishSession;
typedef struct BurnishModel BurnishModel;

/* DLPack's data type: code (DLDataTypeCode), bits and lanes. */
typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} BurnishDType;

/* Where a model's kernels run: DLPack's device type (1 the CPU, 2 CUDA), which of them, and for CUDA
 * the architecture that they were compiled for ("sm_80"; otherwise NULL). */
typedef struct {
  int32_t type;
  int32_t id;
  const char* arch;
} BurnishDevice;

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

/* An input or output of a model. `shape` has -1 for a dimension whose size is not fixed; `dims` has
 * the text of every dimension: its size, the name of a symbol, an expression of names, or "". All
 * live as long as the model. */
typedef struct {
  const char* name;
  BurnishDType dtype;
  int32_t ndim;
  const int64_t* shape;
  const char* const* dims;
} BurnishTensorInfo;

/* The message of the last failure in this thread. */
BURNISH_API const char* burnish_last_error(void);

/* CPUs that this process may use: those of its affinity mask, limited by its cgroup's quota. */
BURNISH_API int burnish_default_threads(void);

/* Whether models for this device can run here: what is missing otherwise is the last error. */
BURNISH_API int burnish_device_check(BurnishDevice device);

/*
 * Load a model library and map its weights; for CUDA, copy them to the device.
 *
 * `library_path` must contain a slash. `weights_path` may be NULL if there are no weights. The
 * model's function "main" takes the inputs and then the weights, both in the order given here.
 */
BURNISH_API int burnish_session_create(BurnishDevice device, const char* library_path,
                                       const char* weights_path, const BurnishInputSpec* inputs,
                                       int32_t num_inputs, const BurnishWeightSpec* weights,
                                       int32_t num_weights, int32_t num_outputs,
                                       BurnishSession** session);

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

/*
 * Load an artifact.
 *
 * Checked before any of its code is loaded: the schema version, that it was compiled for this
 * machine and for features that this CPU has, the hash of the code, and the hash of the weights
 * file's header and of both ends of every weight. `device_id` counts devices of the kind that the
 * model was compiled for; it is 0 for the CPU.
 */
BURNISH_API int burnish_model_load(const char* path, int32_t device_id, BurnishModel** model);

/* Free the model. No run of it may be under way. Outputs that are still held stay valid. */
BURNISH_API void burnish_model_free(BurnishModel* model);

/* The inputs and outputs, in the order that burnish_model_run takes and gives them. */
BURNISH_API int32_t burnish_model_num_inputs(const BurnishModel* model);
BURNISH_API int32_t burnish_model_num_outputs(const BurnishModel* model);
BURNISH_API const BurnishTensorInfo* burnish_model_inputs(const BurnishModel* model);
BURNISH_API const BurnishTensorInfo* burnish_model_outputs(const BurnishModel* model);

/*
 * Run the model once on `threads` threads, after checking the inputs' sizes against the model.
 *
 * `data` has a pointer to the contiguous elements of each input, `ndims` their ranks, `shapes` their
 * shapes one after the other; elements are of the type that burnish_model_inputs() tells. The
 * inputs are only read, and only during the call. `outputs` has room for all outputs; each goes to
 * burnish_tensor_release.
 */
BURNISH_API int burnish_model_run(BurnishModel* model, const void* const* data,
                                  const int32_t* ndims, const int64_t* shapes, int32_t threads,
                                  BurnishTensor* outputs);

/* Give up an output. */
BURNISH_API void burnish_tensor_release(void* handle);

/*
 * What this machine can do at most: operations a second of `threads` threads at once, for `seconds`,
 * with multiply-adds (which count twice) in registers; 0 where the CPU has no instruction for `kind`.
 * Kinds: 0 fp32, 1 bf16 summed in fp32, 2 unsigned by signed bytes summed in int32.
 */
BURNISH_API double burnish_arithmetic_rate(int32_t kind, int32_t threads, double seconds);

/* Bytes a second that `threads` threads at once read from `bytes` of memory in all. */
BURNISH_API double burnish_read_bandwidth(int32_t threads, int64_t bytes, double seconds);

#ifdef __cplusplus
}
#endif

#endif  // BURNISH_RUNTIME_H_
