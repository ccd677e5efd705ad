#include "team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <memory>

namespace burnish {
namespace {

// How long a helper looks for the next loop before it sleeps: longer than the gap between kernels,
// shorter than what another process on the core would notice.
constexpr auto kHelperSpin = std::chrono::microseconds(100);
constexpr auto kOwnerSpin = std::chrono::microseconds(50);
constexpr int kPausesPerClock = 32;

thread_local bool tls_in_region = false;
thread_local std::unique_ptr<Team> tls_team;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void FutexWait(std::atomic<uint32_t>* word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void FutexWake(std::atomic<uint32_t>* word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

uint32_t Tasks(uint64_t ticket) { return static_cast<uint32_t>(ticket >> 16) & 0xffff; }
uint32_t Next(uint64_t ticket) { return static_cast<uint32_t>(ticket) & 0xffff; }
bool HasTask(uint64_t ticket) { return Next(ticket) < Tasks(ticket); }

// Calls `found` until it is true or the time is up.
template <typename Found>
bool Spin(std::chrono::microseconds limit, Found found) {
  auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < kPausesPerClock; ++i) {
      if (found()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

Team& Team::OfThisThread() {
  if (tls_team == nullptr) tls_team = std::make_unique<Team>();
  return *tls_team;
}

bool Team::InRegion() { return tls_in_region; }

void Team::ForgetAfterFork() {
  // Its destructor would join threads that do not exist here.
  static_cast<void>(tls_team.release());
  tls_in_region = false;
}

Team::~Team() {
  stop_.store(true);
  signal_.fetch_add(1);
  FutexWake(&signal_, INT_MAX);
  for (std::thread& helper : helpers_) helper.join();
}

int Team::Run(int threads, int tasks_per_thread, ParallelLambda body, void* cdata) {
  for (int index = static_cast<int>(helpers_.size()); index < threads - 1; ++index) {
    helpers_.emplace_back([this, index] { Help(index); });
  }
  int cpu = sched_getcpu();
  if (cpu != owner_cpu_ || placed_ != helpers_.size()) Place(cpu);
  wanted_.store(threads - 1, std::memory_order_relaxed);
  uint32_t tasks = static_cast<uint32_t>(std::min(threads * tasks_per_thread, 0xffff));
  body_ = body;
  cdata_ = cdata;
  env_.num_task = static_cast<int32_t>(tasks);
  done_.store(0, std::memory_order_relaxed);
  uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(epoch << 32 | static_cast<uint64_t>(tasks) << 16);
  // A helper that is about to sleep counts itself first and then looks for tasks once more: either
  // it sees these, or it is seen here.
  if (sleepers_.load() > 0) {
    signal_.fetch_add(1);
    FutexWake(&signal_, INT_MAX);
  }
  while (RunOne()) {
  }
  WaitForTasks(tasks);
  if (failed_ == 0) return 0;
  int status = failed_;
  failed_ = 0;
  if (error_ != nullptr) {
    TVMFFIErrorSetRaised(error_);
    TVMFFIObjectDecRef(error_);
    error_ = nullptr;
  }
  return status;
}

// Keeps the helpers off the owner's core: the system wakes a thread where its waker runs, and may
// leave it waiting there behind the owner while another core is idle. Wherever placing fails, the
// helpers run where they may.
void Team::Place(int cpu) {
  owner_cpu_ = cpu;
  placed_ = helpers_.size();
  cpu_set_t cpus;
  if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return;
  CPU_CLR(cpu, &cpus);
  if (CPU_COUNT(&cpus) == 0) return;
  for (std::thread& helper : helpers_) {
    pthread_setaffinity_np(helper.native_handle(), sizeof(cpus), &cpus);
  }
}

// Claims a task and runs it; false if there is none.
bool Team::RunOne() {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if (!HasTask(ticket)) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire));
  tls_in_region = true;
  int status = body_(static_cast<int>(Next(ticket)), &env_, cdata_);
  tls_in_region = false;
  if (status != 0) Fail(status);
  uint32_t done = done_.fetch_add(1) + 1;
  if (done == Tasks(ticket) && owner_sleeps_.load()) FutexWake(&done_, 1);
  return true;
}

// tvm-ffi keeps the raised error in the thread that raised it: carry the first one to the owner.
void Team::Fail(int status) {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  std::lock_guard<std::mutex> lock(error_mutex_);
  failed_ = status;
  if (error_ == nullptr) {
    error_ = error;
  } else if (error != nullptr) {
    TVMFFIObjectDecRef(error);
  }
}

void Team::WaitForTasks(uint32_t tasks) {
  auto finished = [&] { return done_.load(std::memory_order_acquire) == tasks; };
  if (finished() || Spin(kOwnerSpin, finished)) return;
  // Asleep, the owner leaves its core to a helper that waits for one.
  owner_sleeps_.store(true);
  for (uint32_t done = done_.load(); done != tasks; done = done_.load()) FutexWait(&done_, done);
  owner_sleeps_.store(false);
}

// A helper beyond the number that the loop wants has none to do.
bool Team::HasTaskFor(int index) const {
  return index < wanted_.load(std::memory_order_relaxed) && HasTask(ticket_.load());
}

void Team::Help(int index) {
  auto awake = [&] { return HasTaskFor(index) || stop_.load(std::memory_order_relaxed); };
  while (!stop_.load(std::memory_order_relaxed)) {
    if (HasTaskFor(index)) {
      RunOne();
    } else if (!Spin(kHelperSpin, awake)) {
      SleepUntilTask(index);
    }
  }
}

void Team::SleepUntilTask(int index) {
  uint32_t signal = signal_.load();
  sleepers_.fetch_add(1);
  if (!HasTaskFor(index) && !stop_.load()) FutexWait(&signal_, signal);
  sleepers_.fetch_sub(1);
}

}  // namespace burnish
