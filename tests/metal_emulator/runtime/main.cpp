// Runs one launch read from a file: the form in which ThreadSanitizer watches a kernel.
// File: grid[3], threadgroup[3], buffers (all uint64), then for each buffer its bytes and its data.
#include <cstdio>
#include <vector>

#include "runtime.h"

extern "C" void emu_entry(const uint64_t* buffers, EmuLane* lane);

namespace {
uint64_t number(FILE* file) {
  uint64_t value = 0;
  if (fread(&value, sizeof value, 1, file) != 1) return 0;
  return value;
}
}  // namespace

int main(int, char** arguments) {
  FILE* file = fopen(arguments[1], "rb");
  if (!file) return 2;
  EmuLaunch launch{};
  launch.entry = emu_entry;
  launch.memory_limit = 32768;
  for (auto& extent : launch.grid) extent = static_cast<uint32_t>(number(file));
  for (auto& extent : launch.threadgroup) extent = static_cast<uint32_t>(number(file));
  std::vector<uint64_t> buffers(number(file));
  for (auto& buffer : buffers) {
    const uint64_t bytes = number(file);
    void* data = emu_buffer_new(bytes, 16);
    if (fread(data, 1, bytes, file) != bytes) return 2;
    buffer = reinterpret_cast<uint64_t>(data);
  }
  fclose(file);
  launch.buffers = buffers.data();
  if (emu_launch(&launch)) {
    puts(launch.error);
    return 1;
  }
  puts("ran");
  return 0;
}
