#include "shares.h"

#include <algorithm>
#include <limits>

namespace burnish {
namespace {

// In the order of the trials: what is slow this way is not tried the others.
constexpr LoopShare kOrder[] = {LoopShare::kFine, LoopShare::kCoarse, LoopShare::kNone};
// Handing over is nothing to a kernel that takes so long.
constexpr float kLongMicroseconds = 100;
// One thread leaves the others to whom they belong: it may take this much longer.
constexpr float kWorthSharing = 0.95F;

}  // namespace

LoopShares::LoopShares(std::size_t kernels) : kernels_(kernels) {}

void LoopShares::Begin(int threads) {
  if (threads == threads_) return;
  threads_ = threads;
  trial_ = threads > 1 ? 0 : kTrials;
  Kernel untried{};
  untried.best.fill(std::numeric_limits<float>::max());
  untried.share = LoopShare::kFine;
  std::fill(kernels_.begin(), kernels_.end(), untried);
}

LoopShare LoopShares::of(std::size_t kernel) const {
  const Kernel& one = kernels_[kernel];
  if (!trying()) return one.share;
  float fine = one.best[static_cast<int>(LoopShare::kFine)];
  bool tried = fine < std::numeric_limits<float>::max();
  return tried && fine > kLongMicroseconds ? LoopShare::kFine : kOrder[trial_ % kWays];
}

void LoopShares::Record(std::size_t kernel, float microseconds) {
  float& best = kernels_[kernel].best[static_cast<int>(of(kernel))];
  best = std::min(best, microseconds);
}

void LoopShares::End() {
  if (!trying() || ++trial_ < kTrials) return;
  for (Kernel& kernel : kernels_) {
    float none = kernel.best[static_cast<int>(LoopShare::kNone)];
    float coarse = kernel.best[static_cast<int>(LoopShare::kCoarse)];
    float fine = kernel.best[static_cast<int>(LoopShare::kFine)];
    if (kWorthSharing * none <= std::min(coarse, fine)) {
      kernel.share = LoopShare::kNone;
    } else {
      kernel.share = coarse < fine ? LoopShare::kCoarse : LoopShare::kFine;
    }
  }
}

}  // namespace burnish
