// Runs the threads of each threadgroup in a chosen order, lets SIMD-group operations and barriers
// happen when every lane has arrived, and names the line where they do not.
#include <sys/mman.h>

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "fibers.h"
#include "runtime.h"
#ifdef EMU_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace {
constexpr size_t stack_bytes = 128 * 1024;
constexpr size_t arena_bytes = 1 << 20;
constexpr uint32_t simd_width = 32;
constexpr uint32_t most_threads = 1024;

struct Slots { alignas(64) uint8_t bytes[2][simd_width * 32]; };
struct Variable { uint32_t site; uint64_t size; uint8_t* data; bool live; };

EmuLaunch* launch;
bool failed;
EmuLane* current;
void* scheduler_stack_pointer;
sigjmp_buf after_fault;
std::vector<EmuLane> lanes;
std::vector<Slots> slots;
std::vector<Variable> variables;
uint8_t *stacks, *arena;
size_t arena_used;
#ifdef EMU_TSAN
void* scheduler_fiber;
#endif

__attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
  if (failed) return;
  failed = true;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(launch->error, sizeof launch->error, format, arguments);
  va_end(arguments);
}

unsigned line(uint64_t site) { return static_cast<unsigned>(site >> 12); }

// libc's copies are seen by ThreadSanitizer: the machine's own must not be.
void copy(void* to, const void* from, size_t bytes) {
  auto* out = static_cast<volatile uint8_t*>(to);
  auto* in = static_cast<const volatile uint8_t*>(from);
  for (size_t i = 0; i < bytes; i++) out[i] = in[i];
}
void poison(uint8_t* at, size_t bytes) {
  auto* out = static_cast<volatile uint8_t*>(at);
  for (size_t i = 0; i < bytes; i++) out[i] = 0xff;
}

void resume(EmuLane* lane) {
  current = lane;
  launch->switches++;
#ifdef EMU_TSAN
  __tsan_switch_to_fiber(lane->tsan_fiber, 1);
#endif
  emu_switch(&scheduler_stack_pointer, lane->stack_pointer);
}

void yield_to_scheduler(EmuLane* lane) {
#ifdef EMU_TSAN
  __tsan_switch_to_fiber(scheduler_fiber, 1);
#endif
  emu_switch(&lane->stack_pointer, scheduler_stack_pointer);
}

void wait(EmuLane* lane, EmuLane::State state, uint64_t site, void* order_point) {
  lane->state = state;
  lane->site = site;
#ifdef EMU_TSAN
  if (order_point) __tsan_release(order_point);
  yield_to_scheduler(lane);
  if (order_point) __tsan_acquire(order_point);
#else
  (void)order_point;
  yield_to_scheduler(lane);
#endif
}

void run_lane() {
  EmuLane* lane = current;
  launch->entry(launch->buffers, lane);
#ifdef EMU_TSAN
  __tsan_release(launch);
#endif
  lane->state = EmuLane::finished;
  yield_to_scheduler(lane);
  abort();
}

void on_fault(int signal, siginfo_t* info, void*) {
  if (!current) {
    std::signal(signal, SIG_DFL);
    raise(signal);
    return;
  }
  fail("memory fault at address %p in threadgroup (%u,%u,%u), thread %u", info->si_addr,
       current->threadgroup_position[0], current->threadgroup_position[1],
       current->threadgroup_position[2], current->index);
  siglongjmp(after_fault, 1);
}

class Order {
 public:
  explicit Order(uint32_t seed) : seed_(seed), state_(seed * 2654435761u + 1) {}
  void apply(std::vector<int>& items) {
    if (seed_ == 1) std::reverse(items.begin(), items.end());
    if (seed_ < 2) return;
    for (size_t i = items.size(); i > 1; i--) std::swap(items[i - 1], items[next() % i]);
  }

 private:
  uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    return state_ ^= state_ << 5;
  }
  uint32_t seed_, state_;
};

std::vector<int> ascending(int count) {
  std::vector<int> items(count);
  for (int i = 0; i < count; i++) items[i] = i;
  return items;
}

// Lets the lanes of a SIMD group go on past an operation; false when none waits at one.
bool meet(EmuLane* first, int count, int simdgroup) {
  int at = -1, elsewhere = -1;
  uint32_t mask = 0;
  for (int i = 0; i < count; i++) {
    const EmuLane& lane = first[i];
    if (lane.state == EmuLane::at_simdgroup) {
      if (at < 0) at = i;
      if (lane.site != first[at].site) elsewhere = i;
      mask |= 1u << i;
    } else if (lane.state == EmuLane::at_threadgroup) {
      elsewhere = i;
    }
  }
  if (at < 0) return false;
  if (elsewhere >= 0) {
    fail("divergent SIMD-group operation in SIMD group %d: lane %d waits at line %u, lane %d at line %u",
         simdgroup, at, line(first[at].site), elsewhere, line(first[elsewhere].site));
    return false;
  }
  launch->operations++;
  for (int i = 0; i < count; i++) {
    if (first[i].state != EmuLane::at_simdgroup) continue;
    first[i].active = mask;
    first[i].state = EmuLane::ready;
  }
  return true;
}

void run_simdgroup(int simdgroup, uint32_t threads, Order& order) {
  EmuLane* first = &lanes[simdgroup * simd_width];
  const int count = std::min(simd_width, threads - simdgroup * simd_width);
  do {
    std::vector<int> turn = ascending(count);
    order.apply(turn);
    for (int lane : turn) {
      if (first[lane].state == EmuLane::ready) resume(&first[lane]);
    }
  } while (meet(first, count, simdgroup));
}

// Lets the threads go on past a barrier; false when all have finished.
bool cross_barrier(uint32_t threads) {
  uint32_t waiting = 0;
  uint64_t site = 0;
  for (uint32_t i = 0; i < threads; i++) {
    if (lanes[i].state != EmuLane::at_threadgroup) continue;
    if (waiting && lanes[i].site != site) {
      fail("threads of a threadgroup wait at barriers on lines %u and %u", line(site), line(lanes[i].site));
      return false;
    }
    site = lanes[i].site;
    waiting++;
  }
  if (!waiting) return false;
  if (waiting < threads) {
    fail("the barrier at line %u was reached by %u of %u threads", line(site), waiting, threads);
    return false;
  }
  launch->barriers++;
  for (uint32_t i = 0; i < threads; i++) lanes[i].state = EmuLane::ready;
  return true;
}

void place(EmuLane& lane, uint32_t index, const uint32_t group[3], const uint32_t size[3],
           const uint32_t groups[3], uint32_t threads) {
  const uint32_t local[3] = {index % size[0], index / size[0] % size[1], index / (size[0] * size[1])};
  for (int i = 0; i < 3; i++) {
    lane.position_in_grid[i] = group[i] * launch->threadgroup[i] + local[i];
    lane.position_in_threadgroup[i] = local[i];
    lane.threadgroup_position[i] = group[i];
    lane.threads_per_grid[i] = launch->grid[i];
    lane.threads_per_threadgroup[i] = size[i];
    lane.dispatch_threads[i] = launch->threadgroup[i];
    lane.threadgroups[i] = groups[i];
  }
  const uint32_t full = launch->threadgroup[0] * launch->threadgroup[1] * launch->threadgroup[2];
  lane.lane = index % simd_width;
  lane.simdgroup = index / simd_width;
  lane.index = index;
  lane.simdgroups = (threads + simd_width - 1) / simd_width;
  lane.dispatch_simdgroups = (full + simd_width - 1) / simd_width;
  lane.phase = lane.active = 0;
  lane.state = EmuLane::ready;
  lane.slots[0] = slots[lane.simdgroup].bytes[0];
  lane.slots[1] = slots[lane.simdgroup].bytes[1];
}

// ThreadSanitizer remembers addresses: give it fresh ones for every threadgroup.
void renew_memory(uint32_t threads) {
#ifdef EMU_TSAN
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  arena = static_cast<uint8_t*>(mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, flags, -1, 0));
  stacks = static_cast<uint8_t*>(
      mmap(nullptr, stack_bytes * threads, PROT_READ | PROT_WRITE, flags, -1, 0));
  variables.clear();
  arena_used = 0;
  for (uint32_t i = 0; i < threads; i++) {
    if (lanes[i].tsan_fiber) __tsan_destroy_fiber(lanes[i].tsan_fiber);
    lanes[i].tsan_fiber = __tsan_create_fiber(0);
  }
#else
  (void)threads;
#endif
  for (Variable& variable : variables) variable.live = false;
}

void check_memory() {
  uint64_t used = 0;
  for (const Variable& variable : variables) {
    if (variable.live) used += (variable.size + 15) & ~uint64_t{15};
  }
  launch->memory_used = std::max<uint32_t>(launch->memory_used, used);
  if (used > launch->memory_limit) {
    fail("%lu bytes of threadgroup memory exceed the limit of %u", static_cast<unsigned long>(used),
         launch->memory_limit);
  }
}

void run_threadgroup(const uint32_t group[3], const uint32_t groups[3], Order& order) {
  uint32_t size[3];
  for (int i = 0; i < 3; i++) {
    size[i] = std::min(launch->threadgroup[i], launch->grid[i] - group[i] * launch->threadgroup[i]);
  }
  const uint32_t threads = size[0] * size[1] * size[2];
  renew_memory(threads);
  for (uint32_t i = 0; i < threads; i++) {
    place(lanes[i], i, group, size, groups, threads);
    lanes[i].stack = stacks + stack_bytes * i;
    lanes[i].stack_pointer = fiber_stack(lanes[i].stack + stack_bytes, run_lane);
  }
  do {
    std::vector<int> turn = ascending((threads + simd_width - 1) / simd_width);
    order.apply(turn);
    for (int simdgroup : turn) {
      if (!failed) run_simdgroup(simdgroup, threads, order);
    }
  } while (!failed && cross_barrier(threads));
  check_memory();
}

void run_grid() {
  uint32_t groups[3];
  uint64_t total = 1;
  for (int i = 0; i < 3; i++) {
    groups[i] = (launch->grid[i] + launch->threadgroup[i] - 1) / launch->threadgroup[i];
    total *= groups[i];
  }
  Order order(launch->order);
  for (uint64_t k = 0; k < total && !failed; k++) {
    const uint64_t at = launch->order == 1 ? total - 1 - k : k;
    const uint32_t group[3] = {static_cast<uint32_t>(at % groups[0]),
                               static_cast<uint32_t>(at / groups[0] % groups[1]),
                               static_cast<uint32_t>(at / groups[0] / groups[1])};
    run_threadgroup(group, groups, order);
  }
}

bool is_valid() {
  for (int i = 0; i < 3; i++) {
    if (launch->grid[i] && launch->threadgroup[i]) continue;
    fail("the grid and the threadgroup must have at least one thread along axis %d", i);
    return false;
  }
  const uint64_t threads =
      uint64_t{launch->threadgroup[0]} * launch->threadgroup[1] * launch->threadgroup[2];
  if (threads > most_threads) {
    fail("a threadgroup of %lu threads exceeds %u", static_cast<unsigned long>(threads), most_threads);
  }
  return !failed;
}

void allocate(uint32_t threads) {
  lanes.assign(threads, EmuLane{});
  slots.assign((threads + simd_width - 1) / simd_width, Slots{});
  variables.clear();
  arena_used = 0;
#ifdef EMU_TSAN
  scheduler_fiber = __tsan_get_current_fiber();
#else
  arena = static_cast<uint8_t*>(aligned_alloc(64, arena_bytes));
  stacks = static_cast<uint8_t*>(mmap(nullptr, stack_bytes * threads, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
#endif
}

void release(uint32_t threads) {
#ifdef EMU_TSAN
  (void)threads;
  __tsan_acquire(launch);
#else
  free(arena);
  munmap(stacks, stack_bytes * threads);
#endif
}
}  // namespace

extern "C" {

EmuLane* emu_lane() { return current; }

void emu_rendezvous(EmuLane* lane, uint64_t site) {
  lane->phase++;
  wait(lane, EmuLane::at_simdgroup, site, nullptr);
}

void emu_simdgroup_wait(EmuLane* lane, uint64_t site) {
  wait(lane, EmuLane::at_simdgroup, site, arena + arena_bytes - 64 * (1 + lane->simdgroup));
}

void emu_threadgroup_wait(EmuLane* lane, uint64_t site) {
  wait(lane, EmuLane::at_threadgroup, site, arena);
}

void emu_put(EmuLane* lane, const void* value, uint32_t bytes) {
  copy(lane->slots[lane->phase & 1] + 32 * lane->lane, value, bytes);
}

void emu_get(EmuLane* lane, uint32_t from, void* value, uint32_t bytes) {
  copy(value, lane->slots[(lane->phase - 1) & 1] + 32 * from, bytes);
}

void* emu_threadgroup_memory(uint32_t site, uint64_t size) {
  for (Variable& variable : variables) {
    if (variable.site != site || variable.size != size) continue;
    if (!variable.live) poison(variable.data, size);
    variable.live = true;
    return variable.data;
  }
  uint8_t* data = arena + arena_used;
  arena_used += (size + 63) & ~uint64_t{63};
  if (arena_used > arena_bytes / 2) {
    fail("%lu bytes of threadgroup memory exceed the limit of %u",
         static_cast<unsigned long>(arena_used), launch->memory_limit);
    siglongjmp(after_fault, 1);
  }
  poison(data, size);
  variables.push_back({site, size, data, true});
  return data;
}

int emu_launch(EmuLaunch* request) {
  launch = request;
  failed = false;
  for (int i = 0; i < 3; i++) launch->threadgroup[i] = std::min(launch->threadgroup[i], launch->grid[i]);
  if (!is_valid()) return 1;
  const uint32_t threads = launch->threadgroup[0] * launch->threadgroup[1] * launch->threadgroup[2];
  allocate(threads);
  static uint8_t signal_stack[65536];
  stack_t own{}, before_stack{};
  own.ss_sp = signal_stack;
  own.ss_size = sizeof signal_stack;
  sigaltstack(&own, &before_stack);
  struct sigaction action{}, before_segv{}, before_bus{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &before_segv);
  sigaction(SIGBUS, &action, &before_bus);
  if (sigsetjmp(after_fault, 1) == 0) run_grid();
  current = nullptr;
  sigaction(SIGSEGV, &before_segv, nullptr);
  sigaction(SIGBUS, &before_bus, nullptr);
  sigaltstack(&before_stack, nullptr);
  release(threads);
  return failed;
}

// Conversions the compiler calls for __bf16 where the processor has none.
__bf16 __truncsfbf2(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint16_t rounded =
      nan ? (bits >> 16) | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  __bf16 result;
  memcpy(&result, &rounded, 2);
  return result;
}
}
