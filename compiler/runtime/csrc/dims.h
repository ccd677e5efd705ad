// Dimensions as text: a number, the name of a symbol, or arithmetic over both.
#ifndef BURNISH_DIMS_H_
#define BURNISH_DIMS_H_

#include <cstdint>
#include <map>
#include <string>

namespace burnish {

// Whether the text is the bare name of a symbol.
bool IsSymbol(const std::string& text);

// The value of `2*sequence + 1`, of `max(a, b)//c` and the like; // and % round down. Throws Failure
// where the text is no dimension, a symbol has no size, or the result does not fit 64 bits.
int64_t EvaluateDim(const std::string& text, const std::map<std::string, int64_t>& sizes);

}  // namespace burnish

#endif  // BURNISH_DIMS_H_
