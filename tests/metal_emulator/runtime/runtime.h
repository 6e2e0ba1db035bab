// The emulator's machine: one threadgroup at a time, each of its threads a fiber of one OS thread.
#pragma once
#include <cstdint>

extern "C" {

// Must match `struct EmuLane` in include/emulator/runtime.h up to `slots`.
struct EmuLane {
  uint32_t position_in_grid[4], position_in_threadgroup[4], threadgroup_position[4];
  uint32_t threads_per_grid[4], threads_per_threadgroup[4], dispatch_threads[4], threadgroups[4];
  uint32_t lane, simdgroup, index, simdgroups, dispatch_simdgroups;
  uint32_t phase;   // operations met so far: a slot array serves every second one
  uint32_t active;  // lanes that took part in the last operation
  uint32_t padding;
  uint8_t* slots[2];

  enum State : uint32_t { ready, at_simdgroup, at_threadgroup, finished };
  State state;
  uint64_t site;  // line << 12 | column of the operation waited at
  void* stack_pointer;
  uint8_t* stack;
  void* tsan_fiber;
};

typedef void (*EmuEntry)(const uint64_t* buffers, EmuLane* lane);

struct EmuLaunch {
  EmuEntry entry;
  const uint64_t* buffers;
  uint32_t grid[3];         // threads
  uint32_t threadgroup[3];  // threads
  uint32_t order;           // of lanes and SIMD groups: 0 ascending, 1 descending, else a seed
  uint32_t memory_limit;    // bytes of threadgroup memory
  // Results.
  uint32_t memory_used;
  uint32_t padding;
  uint64_t switches, operations, barriers;
  char error[512];
};

int emu_launch(EmuLaunch* launch);

// Device buffers that end at an unreadable page, filled with 0xff.
void* emu_buffer_new(uint64_t bytes, uint64_t alignment);
void emu_buffer_free(void* buffer);
int emu_buffer_intact(void* buffer);

// Bytes that instrumented kernels read from and wrote to a buffer since it was made.
uint64_t emu_buffer_read(void* buffer);
uint64_t emu_buffer_written(void* buffer);
}
