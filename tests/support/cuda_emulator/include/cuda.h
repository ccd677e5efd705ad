// Kernels include it for the driver's types; they use none that the emulator lacks.
#include "emulator.h"
