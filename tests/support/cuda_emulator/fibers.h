// Runs the threads of a kernel's blocks as fibers.
#ifndef CUDA_EMULATOR_FIBERS_H_
#define CUDA_EMULATOR_FIBERS_H_

#include <stddef.h>

#include "include/emulator.h"

namespace emulator {

struct Span {
  char* data;
  size_t size;
};

struct Launch {
  void (*call)(void** arguments);
  void** arguments;
  EmulatorIndex grid, block;
  Span fixed_shared;
  size_t dynamic_shared;
};

// Runs all blocks, one after the other. Ends the process if threads wait for ever at a barrier.
void Run(const Launch& launch);

}  // namespace emulator

#endif  // CUDA_EMULATOR_FIBERS_H_
