// One oneDNN primitive that any number of threads may run at once.
#ifndef BURNISH_ONEDNN_PRIMITIVE_H_
#define BURNISH_ONEDNN_PRIMITIVE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>
#include <vector>

namespace burnish::onednn {

// The CPU.
const dnnl::engine& Engine();

// While it lives, oneDNN makes and runs primitives in the calling thread alone: the threads are ours.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int saved_;
};

// What a primitive reads or writes.
struct Slot {
  int argument;  // DNNL_ARG_...
  dnnl::memory::desc desc;
};

class Primitive {
 public:
  // `slots` without the scratchpad.
  Primitive(const dnnl::primitive_desc& desc, std::vector<Slot> slots);
  Primitive(const Primitive&) = delete;
  Primitive& operator=(const Primitive&) = delete;

  // Runs on `data`, one address for each slot.
  void Run(void* const* data);

 private:
  // The memory objects of one run at a time: their addresses are changed.
  struct Frame {
    std::vector<dnnl::memory> memories;
    std::vector<dnnl_exec_arg_t> arguments;
    dnnl::stream stream;
  };
  std::unique_ptr<Frame> Take();

  dnnl::primitive primitive_;
  std::vector<Slot> slots_;
  size_t scratchpad_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Frame>> idle_;
};

// Copies `from` to `to`, which have the same dims and any layouts.
void Reorder(const dnnl::memory::desc& from, const void* data, const dnnl::memory& to);

}  // namespace burnish::onednn

#endif  // BURNISH_ONEDNN_PRIMITIVE_H_
