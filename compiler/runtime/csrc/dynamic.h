// Functions that a model's code calls where sizes or the control flow depend on data.
#ifndef BURNISH_DYNAMIC_H_
#define BURNISH_DYNAMIC_H_

#include <tvm/ffi/tvm_ffi.h>

#include <memory>

#include "arena.h"

namespace burnish {

// The function of a name, or nothing. They are looked up when a virtual machine is made; tensors
// that they make come from the arena.
//
// burnish.read_sizes(tensor int64, where) -> shape: the elements as sizes; throws for a negative one.
// burnish.check_sizes(shape (a, b), kind, where): throws unless a and b are "equal", are equal or
//     one of them is 1 ("broadcast"), or a is "at_least" b.
// burnish.loop(vm, body, trips, condition, carried, scanned, {shape, dtype} of each scanned output
//     of no iterations, dims, carried tensors..., captured tensors...) -> carried and scanned
//     tensors: ONNX's Loop. The body takes (dims, iteration, condition, carried..., captured...) and
//     returns the tuple (condition, carried..., scanned...).
tvm::ffi::Optional<tvm::ffi::Function> DynamicFunction(const tvm::ffi::String& name,
                                                       const std::shared_ptr<Arena>& arena);

// Whether it is the name of one of them after which sizes or calls depend on data.
bool IsDataDependent(const char* name);

// Whether it is the name of the one that only compares sizes.
bool IsSizeCheck(const char* name);

}  // namespace burnish

#endif  // BURNISH_DYNAMIC_H_
