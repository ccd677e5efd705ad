// A thread and its helpers, which run the tasks of one parallel loop after another.
#ifndef BURNISH_TEAM_H_
#define BURNISH_TEAM_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace burnish {

// TVM's calling convention for the body of a parallel loop (tvm/runtime/c_backend_api.h), repeated
// here so that building needs no TVM.
struct ParallelGroupEnv {
  void* sync_handle;
  int32_t num_task;
};
using ParallelLambda = int (*)(int task_id, ParallelGroupEnv* env, void* cdata);

// Tasks are claimed, not assigned: a helper that the system has taken off its core delays a loop only
// if it holds a task, and a loop whose helpers are all away runs on the caller alone. OpenMP's
// implicit barrier waits for every thread of the team instead, which on a core shared with another
// process costs a scheduler tick for every loop.
class Team {
 public:
  // The calling thread's team.
  static Team& OfThisThread();
  // Whether the calling thread runs a task.
  static bool InRegion();
  // In a child of fork(), which has no helpers: their teams are left behind.
  static void ForgetAfterFork();

  Team() = default;
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Runs a loop on `threads` threads, the caller among them, as `tasks_per_thread` tasks for each.
  // Helpers are made when they are first wanted. Returns 0 or the status of a task that failed, whose
  // error is raised.
  int Run(int threads, int tasks_per_thread, ParallelLambda body, void* cdata);

 private:
  void Help(int index);
  bool HasTaskFor(int index) const;
  void Place(int cpu);
  bool RunOne();
  void SleepUntilTask(int index);
  void WaitForTasks(uint32_t tasks);
  void Fail(int status);

  // All that a helper needs of a loop is in one cache line, so that it comes at once.
  //
  // Epoch of the loop (32 bits), its number of tasks (16), the next one to claim (16). A claim is one
  // compare-and-swap, so it is of this loop, which then cannot end before the task is done.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  // Of the current loop; written while no task can be claimed.
  ParallelLambda body_ = nullptr;
  void* cdata_ = nullptr;
  ParallelGroupEnv env_{nullptr, 1};
  std::atomic<int> wanted_{0};

  alignas(64) std::atomic<uint32_t> done_{0};

  // Seldom written.
  alignas(64) std::atomic<uint32_t> signal_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> owner_sleeps_{false};
  std::atomic<bool> stop_{false};

  std::mutex error_mutex_;
  int failed_ = 0;
  void* error_ = nullptr;
  std::vector<std::thread> helpers_;
  // The owner's core when the helpers were last placed, and how many there were.
  int owner_cpu_ = -1;
  std::size_t placed_ = 0;
};

}  // namespace burnish

#endif  // BURNISH_TEAM_H_
