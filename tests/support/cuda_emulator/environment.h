// What the environment says of the emulated device: CUDA_EMULATOR_DEVICES is the number of devices
// (1), CUDA_EMULATOR_CAPABILITY their compute capability times ten (80).
#ifndef CUDA_EMULATOR_ENVIRONMENT_H_
#define CUDA_EMULATOR_ENVIRONMENT_H_

#include <stdlib.h>

static inline int Environment(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : atoi(text);
}

#endif  // CUDA_EMULATOR_ENVIRONMENT_H_
