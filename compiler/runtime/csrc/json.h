// JSON with checked access: whatever is missing or of the wrong type is a Failure that says where.
#ifndef BURNISH_JSON_H_
#define BURNISH_JSON_H_

#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cstdint>
#include <functional>
#include <string>

namespace burnish {

// The content of a file, of at most `limit` bytes; all of it if `limit` is 0.
std::string ReadFile(const std::string& path, size_t limit = 0);

class Json {
 public:
  // Parses `text`, which came from `where`.
  static Json Parse(const std::string& text, const std::string& where);

  bool IsInt() const;
  bool IsString() const;
  bool IsNull() const { return value_ == nullptr; }
  int64_t Int() const;
  double Number() const;
  std::string String() const;
  Json operator[](const char* key) const;
  // Calls `visit` with every entry, in the order of the text.
  void ForEach(const std::function<void(const std::string&, const Json&)>& visit) const;
  void ForEachItem(const std::function<void(const Json&)>& visit) const;
  [[noreturn]] void Fail(const std::string& what) const;

 private:
  Json(tvm::ffi::Any value, std::string where)
      : value_(std::move(value)), where_(std::move(where)) {}

  tvm::ffi::Any value_;
  std::string where_;
};

}  // namespace burnish

#endif  // BURNISH_JSON_H_
