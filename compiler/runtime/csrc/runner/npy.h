// NumPy's .npy files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
#ifndef BURNISH_RUNNER_NPY_H_
#define BURNISH_RUNNER_NPY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "../burnish_runtime.h"

namespace burnish {

struct Array {
  BurnishDType dtype{};
  std::vector<int64_t> shape;
  std::string data;
};

// Reads a file with elements of type `dtype`; bfloat16, which NumPy lacks, as its bits in uint16.
// Throws std::runtime_error that says what is wrong with the file.
Array ReadNpy(const std::string& path, BurnishDType dtype);

void WriteNpy(const std::string& path, const BurnishTensor& tensor);

// Size of the tensor's elements in bytes.
size_t DataSize(BurnishDType dtype, const int64_t* shape, size_t ndim);

}  // namespace burnish

#endif  // BURNISH_RUNNER_NPY_H_
