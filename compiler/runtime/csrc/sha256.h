// SHA-256 (FIPS 180-4), to tell that a file is the one that was written.
#ifndef BURNISH_SHA256_H_
#define BURNISH_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace burnish {

class Sha256 {
 public:
  void Update(const void* data, size_t bytes);
  // The digest in hexadecimal. Nothing may be added afterwards.
  std::string Hex();

 private:
  void Block(const unsigned char* block);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> pending_{};
  uint64_t bytes_ = 0;
};

}  // namespace burnish

#endif  // BURNISH_SHA256_H_
