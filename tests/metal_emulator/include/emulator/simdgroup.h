// Barriers and SIMD-group operations. Every operation is a rendezvous of the 32 lanes: each puts
// its value in a slot, waits for the others, and reads what it needs.
#pragma once

namespace metal {
enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
METAL_FUNC mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((int)a | (int)b); }
METAL_FUNC void threadgroup_barrier(mem_flags, EMU_SITE) { emu_threadgroup_barrier(site); }
METAL_FUNC void simdgroup_barrier(mem_flags, EMU_SITE) { emu_simdgroup_barrier(site); }
}  // namespace metal

namespace emu {
#ifdef __NVPTX__
template <class T>
struct Exchange {
  T mine;
  EmuLane self;
  METAL_FUNC Exchange(T value, ulong) { mine = value; __nvvm_bar_warp_sync(self.active); }
  METAL_FUNC uint lane() const { return self.lane; }
  METAL_FUNC uint active() const { return self.active; }
  METAL_FUNC T at(uint from) const {
    constexpr int words = (sizeof(T) + 3) / 4;
    int bits[words];
    for (int i = 0; i < words; i++) bits[i] = 0;
    __builtin_memcpy(bits, &mine, sizeof(T));
    for (int i = 0; i < words; i++) {
      bits[i] = __nvvm_shfl_sync_idx_i32(self.active, bits[i], from & 31, 31);
    }
    T value;
    __builtin_memcpy(&value, bits, sizeof(T));
    return value;
  }
#else
template <class T>
struct Exchange {
  thread EmuLane* self;
  METAL_FUNC Exchange(T value, ulong site) {
    self = emu_lane();
#ifdef EMU_TSAN
    emu_put(self, &value, sizeof(T));
#else
    *(thread T*)(self->slots[self->phase & 1] + 32 * self->lane) = value;
#endif
    emu_rendezvous(self, site);
  }
  METAL_FUNC uint lane() const { return self->lane; }
  METAL_FUNC uint active() const { return self->active; }
  METAL_FUNC T at(uint from) const {
#ifdef EMU_TSAN
    T value;
    emu_get(self, from, &value, sizeof(T));
    return value;
#else
    return *(const thread T*)(self->slots[(self->phase - 1) & 1] + 32 * from);
#endif
  }
#endif
  METAL_FUNC bool has(uint from) const { return from < 32 && ((active() >> from) & 1); }
  // A lane that is absent or out of range gives an undefined value on a GPU: poison it.
  METAL_FUNC T get(uint from) const {
    T value = at(from & 31);
    if (!has(from)) __builtin_memset(&value, 0xff, sizeof(T));
    return value;
  }
};

// The order of a reduction is unspecified in Metal: a tree, ascending or descending on request.
#ifndef EMU_REDUCTION
#define EMU_REDUCTION 0
#endif
template <class T, class F>
METAL_FUNC T reduce(T value, T identity, ulong site, F combine) {
#ifdef __NVPTX__
  T running = value;
  for (uint step = 16; step > 0; step >>= 1) {
    Exchange<T> pair(running, site);
    running = combine(running, pair.at(pair.lane() ^ step));
  }
  return running;
#endif
  Exchange<T> all(value, site);
  T total = identity;
#if EMU_REDUCTION == 0
  T tree[32];
  for (uint i = 0; i < 32; i++) {
    const T other = all.at(i);
    tree[i] = all.has(i) ? other : identity;
  }
  for (uint step = 1; step < 32; step <<= 1) {
    for (uint i = 0; i < 32; i += 2 * step) tree[i] = combine(tree[i], tree[i + step]);
  }
  total = tree[0];
#else
  for (uint k = 0; k < 32; k++) {
    const uint i = EMU_REDUCTION == 1 ? k : 31 - k;
    const T other = all.at(i);
    if (all.has(i)) total = combine(total, other);
  }
#endif
  return total;
}
template <class T, class F>
METAL_FUNC T scan(T value, T identity, ulong site, F combine) {
  Exchange<T> all(value, site);
  T total = identity;
  for (uint i = 0; i < 32; i++) {
    const T other = all.at(i);
    if (i < all.lane() && all.has(i)) total = combine(total, other);
  }
  return total;
}
struct Add { template <class T> METAL_FUNC T operator()(T a, T b) const { return a + b; } };
struct Multiply { template <class T> METAL_FUNC T operator()(T a, T b) const { return a * b; } };
struct Least { template <class T> METAL_FUNC T operator()(T a, T b) const { return metal::min(a, b); } };
struct Greatest { template <class T> METAL_FUNC T operator()(T a, T b) const { return metal::max(a, b); } };
struct And { template <class T> METAL_FUNC T operator()(T a, T b) const { return a & b; } };
struct Or { template <class T> METAL_FUNC T operator()(T a, T b) const { return a | b; } };
struct Xor { template <class T> METAL_FUNC T operator()(T a, T b) const { return a ^ b; } };
template <class T>
METAL_FUNC T highest() {
  if constexpr (__is_integral(T)) return metal::numeric_limits<T>::max();
  else return metal::numeric_limits<T>::infinity();
}
template <class T>
METAL_FUNC T lowest() {
  if constexpr (__is_integral(T)) return metal::numeric_limits<T>::min();
  else return -metal::numeric_limits<T>::infinity();
}
// Metal has these operations for scalars of at most 32 bits and vectors of them; bfloat comes from
// MLX's own overloads.
template <class T>
constexpr constant bool exchangeable = sizeof(metal::make_scalar_t<T>) <= 4 &&
    !__is_same(metal::make_scalar_t<T>, bool) && !__is_same(metal::make_scalar_t<T>, bfloat);
}  // namespace emu

#define EMU_SIMD template <class T, class = enable_if_t<emu::exchangeable<T>>> METAL_FUNC T
namespace metal {
EMU_SIMD simd_shuffle(T v, ushort from, EMU_SITE) { return emu::Exchange<T>(v, site).get(from); }
EMU_SIMD simd_broadcast(T v, ushort from, EMU_SITE) { return emu::Exchange<T>(v, site).get(from); }
EMU_SIMD simd_shuffle_xor(T v, ushort mask, EMU_SITE) {
  return emu::Exchange<T>(v, site).get(emu_lane_index() ^ mask);
}
EMU_SIMD simd_shuffle_down(T v, ushort by, EMU_SITE) {
  return emu::Exchange<T>(v, site).get(emu_lane_index() + by);
}
EMU_SIMD simd_shuffle_up(T v, ushort by, EMU_SITE) {
  return emu::Exchange<T>(v, site).get(emu_lane_index() - by);
}
EMU_SIMD simd_shuffle_rotate_down(T v, ushort by, EMU_SITE) {
  return emu::Exchange<T>(v, site).get((emu_lane_index() + by) & 31);
}
EMU_SIMD simd_shuffle_rotate_up(T v, ushort by, EMU_SITE) {
  return emu::Exchange<T>(v, site).get((emu_lane_index() - by) & 31);
}
EMU_SIMD simd_shuffle_and_fill_down(T v, T fill, ushort by, ushort width, EMU_SITE) {
  emu::Exchange<T> values(v, site), fills(fill, site + 1);
  const uint first = emu_lane_index() / width * width, at = emu_lane_index() - first + by;
  const T value = values.get(first + at), filled = fills.get(first + at - width);
  return at < width ? value : filled;
}
EMU_SIMD simd_shuffle_and_fill_down(T v, T fill, ushort by, EMU_SITE) {
  return simd_shuffle_and_fill_down(v, fill, by, (ushort)32, site);
}
EMU_SIMD simd_shuffle_and_fill_up(T v, T fill, ushort by, ushort width, EMU_SITE) {
  emu::Exchange<T> values(v, site), fills(fill, site + 1);
  const uint first = emu_lane_index() / width * width, at = emu_lane_index() - first;
  const T value = values.get(first + at - by), filled = fills.get(first + width + at - by);
  return at >= by ? value : filled;
}
EMU_SIMD simd_shuffle_and_fill_up(T v, T fill, ushort by, EMU_SITE) {
  return simd_shuffle_and_fill_up(v, fill, by, (ushort)32, site);
}
#define EMU_ZERO ((T)(make_scalar_t<T>)0)
#define EMU_ONE ((T)(make_scalar_t<T>)1)
EMU_SIMD simd_sum(T v, EMU_SITE) { return emu::reduce<T>(v, EMU_ZERO, site, emu::Add()); }
EMU_SIMD simd_product(T v, EMU_SITE) { return emu::reduce<T>(v, EMU_ONE, site, emu::Multiply()); }
EMU_SIMD simd_min(T v, EMU_SITE) { return emu::reduce<T>(v, emu::highest<T>(), site, emu::Least()); }
EMU_SIMD simd_max(T v, EMU_SITE) { return emu::reduce<T>(v, emu::lowest<T>(), site, emu::Greatest()); }
EMU_SIMD simd_and(T v, EMU_SITE) { return emu::reduce<T>(v, (T)~(T)0, site, emu::And()); }
EMU_SIMD simd_or(T v, EMU_SITE) { return emu::reduce<T>(v, (T)0, site, emu::Or()); }
EMU_SIMD simd_xor(T v, EMU_SITE) { return emu::reduce<T>(v, (T)0, site, emu::Xor()); }
EMU_SIMD simd_prefix_exclusive_sum(T v, EMU_SITE) { return emu::scan<T>(v, EMU_ZERO, site, emu::Add()); }
EMU_SIMD simd_prefix_inclusive_sum(T v, EMU_SITE) { return simd_prefix_exclusive_sum(v, site) + v; }
EMU_SIMD simd_prefix_exclusive_product(T v, EMU_SITE) {
  return emu::scan<T>(v, EMU_ONE, site, emu::Multiply());
}
EMU_SIMD simd_prefix_inclusive_product(T v, EMU_SITE) {
  return simd_prefix_exclusive_product(v, site) * v;
}
METAL_FUNC bool simd_all(bool v, EMU_SITE) { return emu::reduce<uint>(v, 1u, site, emu::And()); }
METAL_FUNC bool simd_any(bool v, EMU_SITE) { return emu::reduce<uint>(v, 0u, site, emu::Or()); }
EMU_SIMD quad_sum(T v, EMU_SITE) {
  emu::Exchange<T> all(v, site);
  const uint first = all.lane() & ~3u;
  return (all.at(first) + all.at(first + 1)) + (all.at(first + 2) + all.at(first + 3));
}
#undef EMU_ZERO
#undef EMU_ONE
}  // namespace metal
