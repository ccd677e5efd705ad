#include "failure.h"

#include <tvm/ffi/tvm_ffi.h>

#include <exception>
#include <new>

namespace burnish {
namespace {

thread_local std::string last_error;

}  // namespace

int Guarded(const std::function<void()>& body) {
  try {
    body();
    return BURNISH_OK;
  } catch (const Failure& failure) {
    last_error = failure.what();
    return failure.status();
  } catch (const tvm::ffi::Error& error) {
    last_error = error.kind() + ": " + error.message();
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return BURNISH_FAILED;
}

const char* LastError() { return last_error.c_str(); }

}  // namespace burnish
