// The one thread pool behind TVM's parallel loops, and how many threads a region gets.
#ifndef BURNISH_PARALLEL_H_
#define BURNISH_PARALLEL_H_

namespace burnish {

// Makes every module that is loaded from now on run its parallel loops on burnish's threads.
//
// TVM's own pool is never created: it pins the calling thread, shares a loop out in fixed parts, and
// two pools on the same cores cost up to seven times.
void UsePool();

// CPUs in the affinity mask, limited by the cgroup's CPU quota; at least 1.
int DefaultThreads();

// How the calling thread's loops are shared out to its helpers.
enum class LoopShare {
  kNone,    // not at all
  kCoarse,  // a task for each thread: handed over soonest
  kFine,    // several: a thread that was interrupted is overtaken by the others
};

// What the loops that the calling thread runs next go by; kFine to begin with.
LoopShare& CurrentLoopShare();

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
