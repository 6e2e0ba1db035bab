// Device buffers with guard pages, and the count of the bytes that go through them.
#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "runtime.h"

namespace {
constexpr uint64_t page = 4096;

struct Buffer {
  uint8_t *map, *start, *data;
  uint64_t mapped, bytes;
  uint64_t read = 0, written = 0;
  uint8_t* end() const { return map + mapped - page; }
};
std::vector<Buffer> buffers;

Buffer* find(const void* address) {
  for (Buffer& buffer : buffers) {
    if (address >= buffer.start && address < buffer.end()) return &buffer;
  }
  return nullptr;
}

void count_read(const void* address, uint64_t bytes) {
  if (Buffer* buffer = find(address)) buffer->read += bytes;
}
void count_write(const void* address, uint64_t bytes) {
  if (Buffer* buffer = find(address)) buffer->written += bytes;
}
}  // namespace

extern "C" {

void* emu_buffer_new(uint64_t bytes, uint64_t alignment) {
  const uint64_t body = ((bytes ? bytes : 1) + page - 1) / page * page;
  Buffer buffer{};
  buffer.mapped = body + 2 * page;
  buffer.bytes = bytes;
  buffer.map = static_cast<uint8_t*>(
      mmap(nullptr, buffer.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (buffer.map == MAP_FAILED) return nullptr;
  buffer.start = buffer.map + page;
  buffer.data = buffer.end() - (bytes + alignment - 1) / alignment * alignment;
  memset(buffer.start, 0xff, body);
  mprotect(buffer.map, page, PROT_NONE);
  mprotect(buffer.end(), page, PROT_NONE);
  buffers.push_back(buffer);
  return buffer.data;
}

void emu_buffer_free(void* data) {
  for (size_t i = 0; i < buffers.size(); i++) {
    if (buffers[i].data != data) continue;
    munmap(buffers[i].map, buffers[i].mapped);
    buffers.erase(buffers.begin() + i);
    return;
  }
}

int emu_buffer_intact(void* data) {
  for (const Buffer& buffer : buffers) {
    if (buffer.data != data) continue;
    for (const uint8_t* at = buffer.start; at < buffer.data; at++) {
      if (*at != 0xff) return 0;
    }
    for (const uint8_t* at = buffer.data + buffer.bytes; at < buffer.end(); at++) {
      if (*at != 0xff) return 0;
    }
  }
  return 1;
}

uint64_t emu_buffer_read(void* data) {
  for (const Buffer& buffer : buffers) {
    if (buffer.data == data) return buffer.read;
  }
  return 0;
}

uint64_t emu_buffer_written(void* data) {
  for (const Buffer& buffer : buffers) {
    if (buffer.data == data) return buffer.written;
  }
  return 0;
}

// Called by code compiled with -fsanitize-coverage=trace-loads,trace-stores.
void __sanitizer_cov_load1(uint8_t* at) { count_read(at, 1); }
void __sanitizer_cov_load2(uint16_t* at) { count_read(at, 2); }
void __sanitizer_cov_load4(uint32_t* at) { count_read(at, 4); }
void __sanitizer_cov_load8(uint64_t* at) { count_read(at, 8); }
void __sanitizer_cov_load16(void* at) { count_read(at, 16); }
void __sanitizer_cov_store1(uint8_t* at) { count_write(at, 1); }
void __sanitizer_cov_store2(uint16_t* at) { count_write(at, 2); }
void __sanitizer_cov_store4(uint32_t* at) { count_write(at, 4); }
void __sanitizer_cov_store8(uint64_t* at) { count_write(at, 8); }
void __sanitizer_cov_store16(void* at) { count_write(at, 16); }
}
