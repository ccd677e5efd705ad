#include "npy.h"

#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>

namespace burnish {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMagicSize = 6;
// DLPack's type codes and NumPy's kinds. bfloat16 (4) goes as the unsigned integer of its size.
constexpr char kKinds[] = {'i', 'u', 'f', '?', 'u', 'c', 'b'};

std::string Descr(BurnishDType dtype) {
  int bytes = dtype.bits / 8;
  char kind = dtype.code < sizeof(kKinds) ? kKinds[dtype.code] : '?';
  return std::string(1, bytes == 1 ? '|' : '<') + kind + std::to_string(bytes);
}

[[noreturn]] void Refuse(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + " " + what);
}

// The text of a value in the header, which is a Python dict of literals.
std::string Field(const std::string& path, const std::string& header, const std::string& key) {
  size_t at = header.find("'" + key + "'");
  at = at == std::string::npos ? at : header.find(':', at);
  if (at == std::string::npos) Refuse(path, "has a header without '" + key + "'");
  at = header.find_first_not_of(" ", at + 1);
  if (at == std::string::npos) Refuse(path, "has a damaged header");
  char close = header[at] == '(' ? ')' : header[at] == '\'' ? '\'' : ',';
  size_t end = header.find(close, at + 1);
  if (end == std::string::npos) Refuse(path, "has a damaged header");
  return header.substr(at, end - at + (close == ',' ? 0 : 1));
}

std::vector<int64_t> ParseShape(const std::string& path, const std::string& text) {
  std::vector<int64_t> shape;
  for (size_t i = 1; i + 1 < text.size();) {
    if (text[i] == ' ' || text[i] == ',') {
      ++i;
      continue;
    }
    int64_t size = 0;
    size_t begin = i;
    for (; std::isdigit(static_cast<unsigned char>(text[i])) != 0; ++i) {
      if (__builtin_mul_overflow(size, 10, &size) ||
          __builtin_add_overflow(size, text[i] - '0', &size)) {
        Refuse(path, "has a damaged shape");
      }
    }
    if (i == begin) Refuse(path, "has a damaged shape");
    shape.push_back(size);
  }
  return shape;
}

// The length of the header, and where it begins.
std::pair<size_t, size_t> HeaderAt(const std::string& path, const std::string& content) {
  if (content.size() < 10 || content.compare(0, kMagicSize, kMagic) != 0) {
    Refuse(path, "is no .npy file");
  }
  size_t bytes = content[6] == 1 ? 2 : 4;  // of the length, which grew in version 2
  size_t length = 0;
  if (content.size() < 8 + bytes) Refuse(path, "is truncated");
  for (size_t i = 0; i < bytes; ++i) {
    length |= static_cast<size_t>(static_cast<unsigned char>(content[8 + i])) << (8 * i);
  }
  if (length > content.size() - 8 - bytes) Refuse(path, "is truncated");
  return {length, 8 + bytes};
}

}  // namespace

size_t DataSize(BurnishDType dtype, const int64_t* shape, size_t ndim) {
  size_t bytes = dtype.bits / 8;
  for (size_t i = 0; i < ndim; ++i) {
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(shape[i]), &bytes)) {
      throw std::runtime_error("a tensor is larger than the address space");
    }
  }
  return bytes;
}

Array ReadNpy(const std::string& path, BurnishDType dtype) {
  std::ifstream file(path, std::ios::binary);
  std::string content(std::istreambuf_iterator<char>(file), {});
  if (!file.is_open() || file.bad()) Refuse(path, "cannot be read");
  auto [length, begin] = HeaderAt(path, content);
  std::string header = content.substr(begin, length);
  std::string descr = Field(path, header, "descr");
  descr = descr.substr(1, descr.size() - 2);
  if (descr != Descr(dtype)) {
    Refuse(path, "has elements of type " + descr + " instead of " + Descr(dtype));
  }
  Array array{dtype, ParseShape(path, Field(path, header, "shape")), {}};
  if (Field(path, header, "fortran_order") != "False" && array.shape.size() > 1) {
    Refuse(path, "is in Fortran order: save numpy.ascontiguousarray(x)");
  }
  size_t bytes = DataSize(dtype, array.shape.data(), array.shape.size());
  if (content.size() - begin - length != bytes) {
    Refuse(path, "has " + std::to_string(content.size() - begin - length) +
                     " bytes of data instead of " + std::to_string(bytes));
  }
  array.data = content.substr(begin + length);
  return array;
}

void WriteNpy(const std::string& path, const BurnishTensor& tensor) {
  std::string shape;
  for (int32_t i = 0; i < tensor.ndim; ++i) shape += std::to_string(tensor.shape[i]) + ", ";
  if (tensor.ndim > 1) shape.resize(shape.size() - 2);
  std::string header = "{'descr': '" + Descr(tensor.dtype) +
                       "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.append(63 - (kMagicSize + 4 + header.size()) % 64, ' ');
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file.write(kMagic, kMagicSize);
  const char rest[] = {1, 0, static_cast<char>(header.size() & 255),
                       static_cast<char>(header.size() >> 8)};
  file.write(rest, sizeof(rest));
  file << header;
  size_t bytes = DataSize(tensor.dtype, tensor.shape, static_cast<size_t>(tensor.ndim));
  file.write(static_cast<const char*>(tensor.data), static_cast<std::streamsize>(bytes));
  file.close();
  if (!file) Refuse(path, "cannot be written: " + std::string(std::strerror(errno)));
}

}  // namespace burnish
