// How finely each kernel's loops are shared out to threads, found out while a model runs.
#ifndef BURNISH_SHARES_H_
#define BURNISH_SHARES_H_

#include <array>
#include <cstddef>
#include <vector>

#include "parallel.h"

namespace burnish {

// Handing a loop to another thread takes about a microsecond: a kernel of a few is over sooner on one
// thread, and one of a few tens is best cut into few tasks. What a kernel's loop takes depends on its
// sizes and on the machine, so it is measured: in the first runs on several threads all ways take
// turns, then each kernel has the way that was fastest.
class LoopShares {
 public:
  explicit LoopShares(std::size_t kernels = 0);

  // Begins a run on `threads` threads. Another number than before begins the trials anew.
  void Begin(int threads);
  // Whether the kernels' times are wanted in this run.
  bool trying() const { return trial_ < kTrials; }
  // How to run a kernel now.
  LoopShare of(std::size_t kernel) const;
  void Record(std::size_t kernel, float microseconds);
  // Ends a run.
  void End();

 private:
  static constexpr int kWays = 3;
  static constexpr int kTrials = 4 * kWays;

  struct Kernel {
    std::array<float, kWays> best;
    LoopShare share;
  };

  int threads_ = 1;
  int trial_ = kTrials;
  std::vector<Kernel> kernels_;
};

}  // namespace burnish

#endif  // BURNISH_SHARES_H_
