// Parallel loops on the threads that the kernels of the model run on.
#ifndef BURNISH_ONEDNN_THREADS_H_
#define BURNISH_ONEDNN_THREADS_H_

#include <cstdint>
#include <functional>

namespace burnish::onednn {

// How work is divided: into how many pieces at most, and how many threads share them.
struct Share {
  int tasks;
  int threads;
};

// Calls `body(task, share)` for each task, on as many threads as the run of the model has. `work` is
// the number of operations: what is done in a moment is done by the caller.
void ParallelFor(int64_t work, const std::function<void(int, Share)>& body);

// A whole of `units` as equal pieces of at least `least` units, as far as every thread has one.
struct Pieces {
  Pieces(int64_t units, int64_t least, Share share);
  int64_t Begin(int64_t piece) const { return piece * units / count; }
  int64_t End(int64_t piece) const { return (piece + 1) * units / count; }
  int64_t units, count;
};

}  // namespace burnish::onednn

#endif  // BURNISH_ONEDNN_THREADS_H_
