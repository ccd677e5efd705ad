#include "parallel.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/extra/c_env_api.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace burnish {
namespace {

// TVM's calling convention for the body of a parallel loop (tvm/runtime/c_backend_api.h), repeated
// here so that building needs no TVM.
struct ParallelGroupEnv {
  void* sync_handle;
  int32_t num_task;
};
using ParallelLambda = int (*)(int task_id, ParallelGroupEnv* env, void* cdata);

// A region inside a region, or of one task, runs in the calling thread. Generated code splits its
// loop by env->num_task, so any number of tasks gives the right result.
int RunInline(ParallelLambda body, void* cdata) {
  std::atomic<int32_t> counter{0};
  ParallelGroupEnv env{&counter, 1};
  return body(0, &env, cdata);
}

int ParallelLaunch(ParallelLambda body, void* cdata, int num_task) {
  int threads = omp_get_max_threads();
  if (num_task <= 0 || num_task > threads) num_task = threads;
  if (num_task == 1 || omp_in_parallel()) return RunInline(body, cdata);
  int failed = 0;
  // tvm-ffi keeps the raised error in the thread that raised it: carry one to the caller.
  TVMFFIObjectHandle error = nullptr;
#pragma omp parallel num_threads(num_task)
  {
    ParallelGroupEnv env{nullptr, omp_get_num_threads()};
    int status = body(omp_get_thread_num(), &env, cdata);
    if (status != 0) {
#pragma omp critical(burnish_parallel_error)
      {
        failed = status;
        if (error == nullptr) TVMFFIErrorMoveFromRaised(&error);
      }
    }
  }
  if (error != nullptr) {
    TVMFFIErrorSetRaised(error);
    TVMFFIObjectDecRef(error);
  }
  return failed;
}

int ParallelBarrier(int, ParallelGroupEnv* env) {
  if (env->num_task > 1) {
#pragma omp barrier
  }
  return 0;
}

// A child of fork() has none of its parent's threads, but libgomp's pool would still wait for them.
// Without a pool at the time of the fork, both sides make a new one when they need it.
void DropPoolBeforeFork() { omp_pause_resource_all(omp_pause_soft); }

int AffinityCpus() {
  for (int cpus = 1024; cpus <= (1 << 20); cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (set == nullptr) break;
    size_t size = CPU_ALLOC_SIZE(cpus);
    CPU_ZERO_S(size, set);
    int failed = sched_getaffinity(0, size, set);
    int count = failed ? 0 : CPU_COUNT_S(size, set);
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return 1;
}

// The CPUs that `quota` of every `period` amounts to; 0 if there is no limit.
double QuotaCpus(const std::string& quota, double period) {
  if (quota.empty() || quota == "max" || quota[0] == '-' || period <= 0) return 0;
  try {
    return std::stod(quota) / period;
  } catch (const std::exception&) {
    return 0;
  }
}

// The tightest quota on the way from the process's cgroup to the root (both cgroup versions).
double CgroupCpus() {
  double tightest = 0;
  auto take = [&tightest](double cpus) {
    if (cpus > 0 && (tightest == 0 || cpus < tightest)) tightest = cpus;
  };
  auto look = [&take](std::string root, std::string path) {
    for (;; path.erase(path.rfind('/'))) {
      std::ifstream v2(root + path + "/cpu.max");
      std::string quota;
      double period = 0;
      if (v2 >> quota >> period) take(QuotaCpus(quota, period));
      std::ifstream v1_quota(root + path + "/cpu.cfs_quota_us");
      std::ifstream v1_period(root + path + "/cpu.cfs_period_us");
      if (v1_quota >> quota && v1_period >> period) take(QuotaCpus(quota, period));
      if (path.find('/') == std::string::npos) break;
    }
  };
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" (version 2) or "7:cpu,cpuacct:/path" (version 1).
    size_t first = line.find(':');
    size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers.empty()) look("/sys/fs/cgroup", path);
    std::stringstream names("," + controllers + ",");
    if (names.str().find(",cpu,") != std::string::npos) {
      look("/sys/fs/cgroup/cpu", path);
      look("/sys/fs/cgroup/cpu,cpuacct", path);
    }
  }
  return tightest;
}

}  // namespace

void UseOpenMP() {
  TVMFFIEnvModRegisterContextSymbol("__TVMBackendParallelLaunch",
                                    reinterpret_cast<void*>(&ParallelLaunch));
  TVMFFIEnvModRegisterContextSymbol("__TVMBackendParallelBarrier",
                                    reinterpret_cast<void*>(&ParallelBarrier));
  pthread_atfork(&DropPoolBeforeFork, nullptr, nullptr);
}

int DefaultThreads() {
  int cpus = AffinityCpus();
  double quota = CgroupCpus();
  if (quota > 0) cpus = std::min(cpus, static_cast<int>(std::ceil(quota)));
  return std::max(cpus, 1);
}

ThreadScope::ThreadScope(int threads) : saved_(omp_get_max_threads()) {
  if (threads != saved_) omp_set_num_threads(threads);
}

ThreadScope::~ThreadScope() {
  if (omp_get_max_threads() != saved_) omp_set_num_threads(saved_);
}

}  // namespace burnish
