#include "threads.h"

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>

namespace ffi = tvm::ffi;

namespace burnish::onednn {
namespace {

// TVM's calling convention for parallel loops (tvm/runtime/c_backend_api.h).
struct ParallelGroupEnv {
  void* sync_handle;
  int32_t num_task;
};
using Lambda = int (*)(int task_id, ParallelGroupEnv* env, void* cdata);
using Launch = int (*)(Lambda body, void* cdata, int num_task);

// burnish's pool makes several tasks for a thread. Only how well the work is balanced depends on it.
constexpr int kTasksPerThread = 4;
// About the time that it takes to wake the other threads, in operations of one.
constexpr int64_t kSerialWork = 400000;

// What the kernels of a model library call: the last one that was registered counts.
Launch FindLaunch() {
  Launch launch = nullptr;
  ffi::Module::VisitContextSymbols(
      ffi::TypedFunction<void(ffi::String, void*)>([&](ffi::String name, void* address) {
        if (name == "__TVMBackendParallelLaunch") launch = reinterpret_cast<Launch>(address);
      }));
  if (launch == nullptr) TVM_FFI_THROW(RuntimeError) << "there is no pool of threads";
  return launch;
}

int RunTask(int task, ParallelGroupEnv* env, void* cdata) {
  TVM_FFI_SAFE_CALL_BEGIN();
  const auto& body = *static_cast<const std::function<void(int, Share)>*>(cdata);
  body(task, {env->num_task, std::max(env->num_task / kTasksPerThread, 1)});
  TVM_FFI_SAFE_CALL_END();
}

}  // namespace

void ParallelFor(int64_t work, const std::function<void(int, Share)>& body) {
  if (work < kSerialWork) return body(0, {1, 1});
  static const Launch launch = FindLaunch();
  TVM_FFI_CHECK_SAFE_CALL(
      launch(&RunTask, const_cast<std::function<void(int, Share)>*>(&body), 0));
}

Pieces::Pieces(int64_t units, int64_t least, Share share)
    : units(units), count(std::min<int64_t>(units, share.tasks)) {
  while (count > share.threads && units < count * least) {
    count = std::max<int64_t>(count / 2, share.threads);
  }
}

}  // namespace burnish::onednn
