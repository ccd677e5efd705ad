#include "dims.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "failure.h"

namespace burnish {
namespace {

// Deeper nesting than any model has; a damaged file must not exhaust the stack.
constexpr int kMaxDepth = 200;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
// The bytes of letters beyond ASCII count as letters.
bool StartsName(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_' || (c & 0x80) != 0;
}
bool InName(char c) { return StartsName(c) || IsDigit(c) || c == '.'; }

// Recursive descent over the text form that burnish.ir.dims writes.
class Parser {
 public:
  Parser(const std::string& text, const std::map<std::string, int64_t>& sizes)
      : text_(text), sizes_(sizes) {}

  int64_t Whole() {
    int64_t value = Sum();
    if (Peek() != '\0') Fail();
    return value;
  }

 private:
  [[noreturn]] void Fail() const { throw Failure(BURNISH_INVALID, "not a dimension: " + text_); }
  [[noreturn]] void Overflow() const { throw Failure(BURNISH_INVALID, text_ + " is too large"); }

  char Peek() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool Take(const char* token) {
    Peek();
    size_t length = std::char_traits<char>::length(token);
    if (text_.compare(at_, length, token) != 0) return false;
    at_ += length;
    return true;
  }

  void Expect(const char* token) {
    if (!Take(token)) Fail();
  }

  int64_t Sum() {
    if (++depth_ > kMaxDepth) Fail();
    bool negative = Take("-");
    int64_t value = Term();
    if (negative && __builtin_sub_overflow(0, value, &value)) Overflow();
    for (;;) {
      if (Take("+")) {
        if (__builtin_add_overflow(value, Term(), &value)) Overflow();
      } else if (Take("-")) {
        if (__builtin_sub_overflow(value, Term(), &value)) Overflow();
      } else {
        --depth_;
        return value;
      }
    }
  }

  int64_t Term() {
    int64_t value = Atom();
    for (;;) {
      if (Take("*")) {
        if (__builtin_mul_overflow(value, Atom(), &value)) Overflow();
      } else if (Take("//")) {
        value = Divide(value, Atom()).first;
      } else if (Take("%")) {
        value = Divide(value, Atom()).second;
      } else {
        return value;
      }
    }
  }

  std::pair<int64_t, int64_t> Divide(int64_t a, int64_t b) const {
    if (b == 0) throw Failure(BURNISH_INVALID, text_ + " divides by zero");
    if (b == -1) {  // the one quotient that may overflow
      int64_t negated = 0;
      if (__builtin_sub_overflow(0, a, &negated)) Overflow();
      return {negated, 0};
    }
    int64_t quotient = a / b, rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) --quotient, rest += b;
    return {quotient, rest};
  }

  int64_t Atom() {
    char c = Peek();
    if (Take("(")) {
      int64_t value = Sum();
      Expect(")");
      return value;
    }
    if (IsDigit(c)) return Number();
    if (!StartsName(c)) Fail();
    size_t begin = at_;
    while (at_ < text_.size() && InName(text_[at_])) ++at_;
    std::string name = text_.substr(begin, at_ - begin);
    if ((name == "max" || name == "min") && Take("(")) {
      int64_t a = Sum();
      Expect(",");
      int64_t b = Sum();
      Expect(")");
      return name == "max" ? std::max(a, b) : std::min(a, b);
    }
    auto found = sizes_.find(name);
    if (found == sizes_.end()) {
      throw Failure(BURNISH_INVALID, "nothing tells the size of " + name + " in " + text_);
    }
    return found->second;
  }

  int64_t Number() {
    int64_t value = 0;
    for (; at_ < text_.size() && IsDigit(text_[at_]); ++at_) {
      if (__builtin_mul_overflow(value, 10, &value) ||
          __builtin_add_overflow(value, text_[at_] - '0', &value)) {
        Overflow();
      }
    }
    return value;
  }

  const std::string& text_;
  const std::map<std::string, int64_t>& sizes_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

bool IsSymbol(const std::string& text) {
  return !text.empty() && StartsName(text[0]) && std::all_of(text.begin(), text.end(), InName);
}

int64_t EvaluateDim(const std::string& text, const std::map<std::string, int64_t>& sizes) {
  return Parser(text, sizes).Whole();
}

}  // namespace burnish
