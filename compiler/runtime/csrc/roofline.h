// What this machine can do at most: arithmetic in registers, and bytes from memory.
#ifndef BURNISH_ROOFLINE_H_
#define BURNISH_ROOFLINE_H_

#include <cstddef>

namespace burnish {

enum class Arithmetic { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2 };

// Operations a second of `threads` threads at once, each with independent multiply-adds in registers
// (which count twice) for `seconds`; 0 if this CPU has no instruction for the type.
double ArithmeticRate(Arithmetic kind, int threads, double seconds);

// Bytes a second that `threads` threads at once read from `bytes` of memory in all.
double ReadBandwidth(int threads, std::size_t bytes, double seconds);

}  // namespace burnish

#endif  // BURNISH_ROOFLINE_H_
