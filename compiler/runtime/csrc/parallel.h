// The one thread pool: OpenMP behind TVM's parallel loops.
#ifndef BURNISH_PARALLEL_H_
#define BURNISH_PARALLEL_H_

namespace burnish {

// Makes every module that is loaded from now on run its parallel loops on OpenMP's threads.
//
// TVM's own pool is never created: beside an OpenMP pool on the same cores it costs up to seven
// times, and creating it pins the calling thread.
void UseOpenMP();

// CPUs in the affinity mask, limited by the cgroup's CPU quota; at least 1.
int DefaultThreads();

// The number of threads of the parallel regions that the calling thread opens in this scope.
class ThreadScope {
 public:
  explicit ThreadScope(int threads);
  ~ThreadScope();
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int saved_;
};

}  // namespace burnish

#endif  // BURNISH_PARALLEL_H_
