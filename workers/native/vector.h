// Sixteen logical lanes on every processor (one AVX-512 register, two of AVX2, four of NEON), so that
// sums are taken in the same order everywhere and results are the same bits.
#pragma once

#define INLINE static inline __attribute__((always_inline))
#define EXPORT extern "C" __attribute__((visibility("default")))

using u8 = unsigned char;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

constexpr int LANES = 16;
using Vec = float __attribute__((vector_size(LANES * 4)));
using Int = i32 __attribute__((vector_size(LANES * 4)));
using Word = u32 __attribute__((vector_size(LANES * 4)));
using Short = u16 __attribute__((vector_size(LANES * 2)));
using Half = _Float16 __attribute__((vector_size(LANES * 2)));
using Double = double __attribute__((vector_size(LANES * 8)));
using Byte = u8 __attribute__((vector_size(LANES)));

// A register: lanes that are worked on together where sixteen at once would not leave enough of them.
#if defined(__AVX512F__)
constexpr int PART = 16;
#elif defined(__AVX2__)
constexpr int PART = 8;
#else
constexpr int PART = 4;
#endif
constexpr int PARTS = LANES / PART;
using Part = float __attribute__((vector_size(PART * 4)));

template <class V> INLINE V constant(float x) { return V{} + x; } // for what the compiler knows
INLINE Vec all(float x) { return Vec{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; } // Vec{} + x is an addition
template <class V> INLINE V fma(V a, V b, V c) { return __builtin_elementwise_fma(a, b, c); }
INLINE Vec minimum(Vec a, Vec b) { return a < b ? a : b; }
INLINE Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
INLINE Vec magnitude(Vec a) { return __builtin_elementwise_abs(a); }
template <class V> INLINE V round_even(V a) { return __builtin_elementwise_roundeven(a); }

// Floats that are not negative are in the order of their bits; integers are compared on more units.
template <class V> using IntOf = i32 __attribute__((vector_size(sizeof(V))));
template <class V> INLINE IntOf<V> lesser_bits(V a, V b) { return __builtin_elementwise_min((IntOf<V>)a, (IntOf<V>)b); }
template <class V> INLINE IntOf<V> greater_bits(V a, V b) { return __builtin_elementwise_max((IntOf<V>)a, (IntOf<V>)b); }

template <class T> INLINE T load_as(const void *from) {
  T value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
INLINE Vec load(const float *from) { return load_as<Vec>(from); }
INLINE Part part_of(const Vec &v, int part) { return load_as<Part>((const float *)&v + part * PART); }
template <class T> INLINE void store(void *to, T value) { __builtin_memcpy(to, &value, sizeof value); }
INLINE void put_part(Vec &v, int part, Part value) { store((float *)&v + part * PART, value); }

// Sum of the lanes in float64, in a fixed order.
INLINE double sum_lanes(Vec v) {
  double total = 0;
  for (int lane = 0; lane < LANES; ++lane) total += (double)v[lane];
  return total;
}
INLINE double sum_lanes(const Double &v) {
  double total = 0;
  for (int lane = 0; lane < LANES; ++lane) total += v[lane];
  return total;
}

// The storage types of weights, scales and biases.
struct Bf16 {
  using Element = u16;
  INLINE Vec read(const Element *from) {
    return (Vec)(__builtin_convertvector(load_as<Short>(from), Word) << 16);
  }
  // One of the two that a word holds.
  INLINE Vec from_word(Word pair, int which) { return (Vec)(which ? pair & 0xFFFF0000u : pair << 16); }
  INLINE Word bits(Vec x) {
    Word u = (Word)x;
    return (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
  }
  INLINE Vec round(Vec x) { return (Vec)(bits(x) << 16); }
  INLINE void write(Element *to, Vec x) { store(to, __builtin_convertvector(bits(x), Short)); }
  // The next value of this type beyond `x`, a value of this type, in the direction of `target`.
  INLINE Vec towards(Vec x, Vec target) {
    Word u = (Word)x;
    return (Vec)(magnitude(target) > magnitude(x) ? u + 0x10000u : u - 0x10000u);
  }
};

struct F16 {
  using Element = u16;
  INLINE Vec read(const Element *from) {
    return __builtin_convertvector(load_as<Half>(from), Vec);
  }
  INLINE Vec from_word(Word pair, int which) {
    Short bits = __builtin_convertvector(which ? pair >> 16 : pair & 0xFFFFu, Short);
    return __builtin_convertvector((Half)bits, Vec);
  }
  INLINE Vec round(Vec x) {
    return __builtin_convertvector(__builtin_convertvector(x, Half), Vec);
  }
  INLINE void write(Element *to, Vec x) { store(to, __builtin_convertvector(x, Half)); }
  INLINE Vec towards(Vec x, Vec target) {
    Short u = (Short)__builtin_convertvector(x, Half);
    Int larger = magnitude(target) > magnitude(x);
    Short step = __builtin_convertvector((larger & 2) - 1, Short);
    return __builtin_convertvector((Half)(u + step), Vec);
  }
};

struct F32 {
  using Element = float;
  INLINE Vec read(const Element *from) { return load(from); }
  INLINE Vec from_word(Word word, int) { return (Vec)word; }
  INLINE Vec round(Vec x) { return x; }
  INLINE void write(Element *to, Vec x) { store(to, x); }
  INLINE Vec towards(Vec x, Vec) { return x; }
};

enum Storage : int { STORAGE_BF16 = 0, STORAGE_F16 = 1, STORAGE_F32 = 2 };

// Call `body(Type{})` with the storage type that `storage` numbers.
template <class Body> INLINE void with_storage(int storage, Body body) {
  switch (storage) {
  case STORAGE_BF16: body(Bf16{}); break;
  case STORAGE_F16: body(F16{}); break;
  default: body(F32{});
  }
}

struct Min { INLINE Vec join(Vec a, Vec b) { return minimum(a, b); } };
struct Max { INLINE Vec join(Vec a, Vec b) { return maximum(a, b); } };
struct Add { INLINE Vec join(Vec a, Vec b) { return a + b; } };

// Reduce each of sixteen vectors to one lane of the result, in order.
template <class Op> INLINE Vec reduce_rows(const Vec *rows) {
  Vec eight[8], four[4], two[2];
  for (int i = 0; i < 8; ++i)
    eight[i] = Op::join(
        __builtin_shufflevector(rows[i], rows[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
        __builtin_shufflevector(rows[i], rows[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
  for (int i = 0; i < 4; ++i)
    four[i] = Op::join(
        __builtin_shufflevector(eight[i], eight[i + 4], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
        __builtin_shufflevector(eight[i], eight[i + 4], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
  for (int i = 0; i < 2; ++i)
    two[i] = Op::join(
        __builtin_shufflevector(four[i], four[i + 2], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29),
        __builtin_shufflevector(four[i], four[i + 2], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31));
  Vec one = Op::join(
      __builtin_shufflevector(two[0], two[1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29),
      __builtin_shufflevector(two[0], two[1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31));
  return __builtin_shufflevector(one, one, 0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
}
