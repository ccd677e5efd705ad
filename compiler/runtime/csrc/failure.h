// Errors with the status that the C interface returns for them.
#ifndef BURNISH_FAILURE_H_
#define BURNISH_FAILURE_H_

#include <functional>
#include <stdexcept>
#include <string>

#include "burnish_runtime.h"

namespace burnish {

class Failure : public std::runtime_error {
 public:
  Failure(BurnishStatus status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  BurnishStatus status() const { return status_; }

 private:
  BurnishStatus status_;
};

// Runs `body` and returns its status; what it throws becomes this thread's last error.
int Guarded(const std::function<void()>& body);

// The message of the last failure in this thread.
const char* LastError();

}  // namespace burnish

#endif  // BURNISH_FAILURE_H_
