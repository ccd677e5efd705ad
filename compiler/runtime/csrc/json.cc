#include "json.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "failure.h"

namespace ffi = tvm::ffi;

namespace burnish {
namespace {

// tvm-ffi's parser calls itself for what is nested: a damaged file must not exhaust the stack.
constexpr int kMaxDepth = 64;

int Depth(const std::string& text) {
  int depth = 0, deepest = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

std::string ReadFile(const std::string& path, size_t limit) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure(BURNISH_INVALID, "cannot open " + path + ": " + std::strerror(errno));
  std::string content;
  if (limit > 0) {
    content.resize(limit);
    file.read(&content[0], static_cast<std::streamsize>(limit));
    content.resize(static_cast<size_t>(file.gcount()));
  } else {
    content.assign(std::istreambuf_iterator<char>(file), {});
  }
  if (file.bad()) throw Failure(BURNISH_INVALID, "cannot read " + path);
  return content;
}

Json Json::Parse(const std::string& text, const std::string& where) {
  if (Depth(text) > kMaxDepth) throw Failure(BURNISH_INVALID, where + " is nested too deeply");
  ffi::String message;
  ffi::Any value = ffi::json::Parse(ffi::String(text), &message);
  if (!message.empty()) {
    throw Failure(BURNISH_INVALID, where + " is not valid JSON: " + std::string(message));
  }
  return Json(std::move(value), where);
}

void Json::Fail(const std::string& what) const {
  throw Failure(BURNISH_INVALID, where_ + " " + what + ": the artifact is damaged");
}

bool Json::IsInt() const { return value_.type_index() == ffi::TypeIndex::kTVMFFIInt; }

bool Json::IsString() const { return value_.as<ffi::String>().has_value(); }

int64_t Json::Int() const {
  if (!IsInt()) Fail("is not an integer");
  return value_.cast<int64_t>();
}

double Json::Number() const {
  if (IsInt()) return static_cast<double>(Int());
  if (value_.type_index() != ffi::TypeIndex::kTVMFFIFloat) Fail("is not a number");
  return value_.cast<double>();
}

std::string Json::String() const {
  if (!IsString()) Fail("is not a string");
  return std::string(value_.cast<ffi::String>());
}

Json Json::operator[](const char* key) const {
  auto object = value_.as<ffi::json::Object>();
  if (!object) Fail("is not an object");
  auto found = object->find(ffi::String(key));
  if (found == object->end()) Fail(std::string("has no field '") + key + "'");
  return Json((*found).second, where_ + "." + key);
}

void Json::ForEach(const std::function<void(const std::string&, const Json&)>& visit) const {
  auto object = value_.as<ffi::json::Object>();
  if (!object) Fail("is not an object");
  for (const auto& [key, value] : *object) {
    std::string name(key.cast<ffi::String>());
    visit(name, Json(value, where_ + "." + name));
  }
}

void Json::ForEachItem(const std::function<void(const Json&)>& visit) const {
  auto array = value_.as<ffi::json::Array>();
  if (!array) Fail("is not a list");
  size_t index = 0;
  for (const ffi::Any& value : *array) {
    visit(Json(value, where_ + "[" + std::to_string(index++) + "]"));
  }
}

}  // namespace burnish
