#include "fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#ifndef __x86_64__
#error "the emulated device switches fibers with x86-64 code"
#endif

// Saves the callee-saved registers and the stack pointer at *save, and goes on where `next` was
// saved.
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void emulator_switch(void** save, void* next);

extern "C" {
EmulatorIndex emulator_thread, emulator_block, emulator_block_dim, emulator_grid_dim;
}

namespace emulator {
namespace {

constexpr size_t kStack = 256 << 10;
constexpr unsigned kWarp = 32;
constexpr unsigned char kPoison = 0xff;  // a NaN in every float format

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kEnded };

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  EmulatorIndex index{};
  State state = State::kEnded;
  unsigned mask = 0;  // of the warp barrier that it waits at
  int site = 0;       // and which barrier that is
};

std::vector<Fiber> fibers;
std::vector<uint64_t> exchanged;  // one a fiber
size_t current = 0;
void* scheduler_stack = nullptr;
const Launch* running = nullptr;
std::vector<char> dynamic_shared;
char* dynamic_shared_begin = nullptr;

[[noreturn]] void Body() {
  running->call(running->arguments);
  fibers[current].state = State::kEnded;
  emulator_switch(&fibers[current].stack_pointer, scheduler_stack);
  abort();
}

void Prepare(Fiber* fiber) {
  if (fiber->stack == nullptr) {
    // The page below the stack stays closed: a kernel with too large an array ends there.
    void* memory = mmap(nullptr, kStack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) abort();
    fiber->stack = static_cast<char*>(memory);
    if (mprotect(fiber->stack + 4096, kStack - 4096, PROT_READ | PROT_WRITE) != 0) abort();
  }
  // Six registers, the address to return to, and an empty slot that aligns the stack as a call does.
  auto** top = reinterpret_cast<void**>(fiber->stack + kStack) - 8;
  for (int i = 0; i < 8; ++i) top[i] = nullptr;
  top[6] = reinterpret_cast<void*>(&Body);
  fiber->stack_pointer = top;
  fiber->state = State::kReady;
}

void Resume(size_t fiber) {
  current = fiber;
  emulator_thread = fibers[fiber].index;
  emulator_switch(&scheduler_stack, fibers[fiber].stack_pointer);
}

void Wait(State state, unsigned mask, int site) {
  Fiber& fiber = fibers[current];
  fiber.state = state;
  fiber.mask = mask;
  fiber.site = site;
  emulator_switch(&fiber.stack_pointer, scheduler_stack);
}

unsigned LanesIn(size_t first, size_t count, State state) {
  unsigned lanes = 0;
  for (size_t i = first; i < count && i < first + kWarp; ++i) {
    lanes |= unsigned(fibers[i].state == state) << (i - first);
  }
  return lanes;
}

[[noreturn]] void Fail(const char* what) {
  fprintf(stderr, "cuda_emulator: %s, in block (%u, %u, %u)\n", what, emulator_block.x,
          emulator_block.y, emulator_block.z);
  abort();
}

// Lets the lanes of a warp go on whose whole mask has arrived. Ended lanes are not waited for.
bool ReleaseWarps(size_t count) {
  bool released = false;
  for (size_t first = 0; first < count; first += kWarp) {
    unsigned arrived = LanesIn(first, count, State::kAtWarpBarrier);
    if (arrived == 0) continue;
    size_t lanes = count - first < kWarp ? count - first : kWarp;
    unsigned there = lanes == kWarp ? ~0u : (1u << lanes) - 1;
    unsigned gone = LanesIn(first, count, State::kEnded) | ~there;
    for (size_t i = first; i < first + lanes; ++i) {
      if (fibers[i].state != State::kAtWarpBarrier) continue;
      if ((fibers[i].mask & ~gone & ~arrived) != 0) continue;
      for (size_t j = first; j < first + lanes; ++j) {
        bool expected = (fibers[i].mask & arrived) >> (j - first) & 1;
        if (expected && fibers[j].site != fibers[i].site) {
          Fail("lanes of a warp meet at different barriers");
        }
      }
      fibers[i].state = State::kReady;
      released = true;
    }
  }
  return released;
}

// Lets the block go on if all threads that have not ended are at its barrier.
bool ReleaseBlock(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (fibers[i].state == State::kAtWarpBarrier) return false;
  }
  for (size_t i = 0; i < count; ++i) {
    if (fibers[i].state == State::kAtBlockBarrier) fibers[i].state = State::kReady;
  }
  return true;
}

void RunBlock(size_t count) {
  for (size_t i = 0; i < count; ++i) Prepare(&fibers[i]);
  while (true) {
    bool ended = true;
    for (size_t i = 0; i < count; ++i) {
      if (fibers[i].state == State::kReady) Resume(i);
      ended = ended && fibers[i].state == State::kEnded;
    }
    if (ended) return;
    if (!ReleaseWarps(count) && !ReleaseBlock(count)) {
      Fail("threads wait for ever at a barrier");
    }
  }
}

void SetUp(const Launch& launch, size_t count) {
  running = &launch;
  emulator_block_dim = launch.block;
  emulator_grid_dim = launch.grid;
  if (fibers.size() < count) fibers.resize(count);
  exchanged.resize(fibers.size() + kWarp);
  for (size_t i = 0; i < count; ++i) {
    unsigned linear = static_cast<unsigned>(i);
    fibers[i].index = {linear % launch.block.x, linear / launch.block.x % launch.block.y,
                       linear / (launch.block.x * launch.block.y)};
  }
  dynamic_shared.resize(launch.dynamic_shared + 1024);
  auto address = reinterpret_cast<uintptr_t>(dynamic_shared.data());
  dynamic_shared_begin = dynamic_shared.data() + (1024 - address % 1024) % 1024;
}

}  // namespace

void Run(const Launch& launch) {
  size_t count = size_t{launch.block.x} * launch.block.y * launch.block.z;
  SetUp(launch, count);
  for (unsigned z = 0; z < launch.grid.z; ++z) {
    for (unsigned y = 0; y < launch.grid.y; ++y) {
      for (unsigned x = 0; x < launch.grid.x; ++x) {
        emulator_block = {x, y, z};
        if (launch.fixed_shared.size != 0) {
          memset(launch.fixed_shared.data, kPoison, launch.fixed_shared.size);
        }
        memset(dynamic_shared_begin, kPoison, launch.dynamic_shared);
        RunBlock(count);
      }
    }
  }
}

}  // namespace emulator

extern "C" {

void emulator_sync_block(void) { emulator::Wait(emulator::State::kAtBlockBarrier, 0, 0); }

void emulator_sync_warp(unsigned mask, int site) {
  emulator::Wait(emulator::State::kAtWarpBarrier, mask, site);
}

unsigned emulator_lane(void) { return static_cast<unsigned>(emulator::current % emulator::kWarp); }

unsigned emulator_active(void) {
  size_t first = emulator::current - emulator_lane();
  size_t count = size_t{emulator_block_dim.x} * emulator_block_dim.y * emulator_block_dim.z;
  unsigned lanes = 0;
  for (size_t i = first; i < count && i < first + emulator::kWarp; ++i) {
    lanes |= unsigned(emulator::fibers[i].state != emulator::State::kEnded) << (i - first);
  }
  return lanes;
}

const uint64_t* emulator_exchange(unsigned mask, uint64_t value, int site) {
  emulator::exchanged[emulator::current] = value;
  emulator_sync_warp(mask, site);
  return &emulator::exchanged[emulator::current - emulator_lane()];
}

void* emulator_dynamic_shared(void) { return emulator::dynamic_shared_begin; }

}  // extern "C"
