#include "parallel.h"

#include "team.h"

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

int RunInline(ParallelLambda body, void* cdata) {
  ParallelGroupEnv env{nullptr, 1};
  return body(0, &env, cdata);
}

// Set by ThreadScope for the regions that this thread opens.
thread_local int tls_threads = 1;
thread_local LoopShare tls_share = LoopShare::kFine;
// Tasks of a thread in a loop that is shared out finely.
constexpr int kFineTasks = 4;

int ParallelLaunch(ParallelLambda body, void* cdata, int /*num_task*/) {
  // A region inside a region runs in the calling thread. Generated code splits its loop by
  // env->num_task, so any number of tasks gives the right result.
  LoopShare share = tls_share;
  if (tls_threads <= 1 || share == LoopShare::kNone || Team::InRegion()) {
    return RunInline(body, cdata);
  }
  int tasks = share == LoopShare::kCoarse ? 1 : kFineTasks;
  return Team::OfThisThread().Run(tls_threads, tasks, body, cdata);
}

int ParallelBarrier(int, ParallelGroupEnv* env) {
  if (env->num_task <= 1) return 0;
  // Tasks are claimed one by one, so they need not all be running at a time.
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", "a kernel has a barrier inside a parallel loop");
  return -1;
}

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

void UsePool() {
  TVMFFIEnvModRegisterContextSymbol("__TVMBackendParallelLaunch",
                                    reinterpret_cast<void*>(&ParallelLaunch));
  TVMFFIEnvModRegisterContextSymbol("__TVMBackendParallelBarrier",
                                    reinterpret_cast<void*>(&ParallelBarrier));
  pthread_atfork(nullptr, nullptr, &Team::ForgetAfterFork);
}

int DefaultThreads() {
  int cpus = AffinityCpus();
  double quota = CgroupCpus();
  if (quota > 0) cpus = std::min(cpus, static_cast<int>(std::ceil(quota)));
  return std::max(cpus, 1);
}

LoopShare& CurrentLoopShare() { return tls_share; }

ThreadScope::ThreadScope(int threads) : saved_(tls_threads) { tls_threads = threads; }

ThreadScope::~ThreadScope() { tls_threads = saved_; }

}  // namespace burnish
