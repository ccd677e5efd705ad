#include "primitive.h"

#include <cstdlib>
#include <new>

// Of libgomp, which oneDNN is linked to: no compiler option for OpenMP is needed for two calls.
extern "C" {
int omp_get_max_threads(void);
void omp_set_num_threads(int);
}

namespace burnish::onednn {
namespace {

void Check(dnnl_status_t status, const char* what) {
  if (status != dnnl_success) throw dnnl::error(status, what);
}

// Memory that the primitives of this thread compute in, one after another.
class Scratchpad {
 public:
  ~Scratchpad() { std::free(data_); }
  void* OfSize(size_t bytes) {
    if (bytes > bytes_) {
      std::free(data_);
      data_ = nullptr;
      bytes_ = 0;
      if (posix_memalign(&data_, 4096, bytes) != 0) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

thread_local Scratchpad tls_scratchpad;

}  // namespace

const dnnl::engine& Engine() {
  // Never destroyed: primitives may outlive the destructors of this library.
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

OneThread::OneThread() : saved_(omp_get_max_threads()) {
  if (saved_ != 1) omp_set_num_threads(1);
}

OneThread::~OneThread() {
  if (saved_ != 1) omp_set_num_threads(saved_);
}

Primitive::Primitive(const dnnl::primitive_desc& desc, std::vector<Slot> slots)
    : primitive_(desc), slots_(std::move(slots)), scratchpad_(desc.scratchpad_desc().get_size()) {
  slots_.push_back({DNNL_ARG_SCRATCHPAD, desc.scratchpad_desc()});
}

std::unique_ptr<Primitive::Frame> Primitive::Take() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Frame> frame = std::move(idle_.back());
      idle_.pop_back();
      return frame;
    }
  }
  auto frame = std::make_unique<Frame>();
  frame->stream = dnnl::stream(Engine());
  for (const Slot& slot : slots_) {
    frame->memories.emplace_back(slot.desc, Engine(), nullptr);
    frame->arguments.push_back({slot.argument, frame->memories.back().get()});
  }
  return frame;
}

void Primitive::Run(void* const* data) {
  OneThread one;
  std::unique_ptr<Frame> frame = Take();
  size_t last = slots_.size() - 1;
  for (size_t i = 0; i < last; ++i) {
    Check(dnnl_memory_set_data_handle(frame->arguments[i].memory, data[i]), "set the data");
  }
  if (scratchpad_ > 0) {
    Check(dnnl_memory_set_data_handle(frame->arguments[last].memory,
                                      tls_scratchpad.OfSize(scratchpad_)),
          "set the scratchpad");
  }
  Check(dnnl_primitive_execute(primitive_.get(), frame->stream.get(),
                               static_cast<int>(frame->arguments.size()),
                               frame->arguments.data()),
        "run a primitive");
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(frame));
}

void Reorder(const dnnl::memory::desc& from, const void* data, const dnnl::memory& to) {
  OneThread one;
  dnnl::memory source(from, Engine(), const_cast<void*>(data));
  dnnl::memory target = to;
  dnnl::stream stream(Engine());
  dnnl::reorder(source, target).execute(stream, source, target);
  stream.wait();
}

}  // namespace burnish::onednn
