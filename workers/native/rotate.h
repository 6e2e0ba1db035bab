// The block rotation of 32 columns: signs, then a Hadamard transform, then the rounding to storage that
// a folded checkpoint has.
#pragma once
#include "vector.h"

// Sylvester-Hadamard transform of 32 values held as two vectors, natural (Sylvester) order.
template <int H> INLINE Vec butterfly(Vec v) {
  Vec other, sign;
  if constexpr (H == 8)
    other = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  else if constexpr (H == 4)
    other = __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  else if constexpr (H == 2)
    other = __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  else
    other = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  for (int i = 0; i < LANES; ++i) sign[i] = (i & H) ? -1.0f : 1.0f;
  return fma(v, sign, other);
}

INLINE void hadamard32(Vec &a, Vec &b) {
  Vec sum = a + b;
  b = a - b;
  a = sum;
  a = butterfly<1>(butterfly<2>(butterfly<4>(butterfly<8>(a))));
  b = butterfly<1>(butterfly<2>(butterfly<4>(butterfly<8>(b))));
}

template <class Type>
static void rotate(const typename Type::Element *from, i64 count, const float *signs, i64 width, i64 start,
                   typename Type::Element *to) {
  const Vec scale = all(0x1.6a09e6p-3f); // 1 / sqrt(32)
  for (i64 at = 0; at < count; at += 2 * LANES) {
    const float *sign = signs + (start + at) % width;
    Vec a = Type::read(from + at) * load(sign), b = Type::read(from + at + LANES) * load(sign + LANES);
    hadamard32(a, b);
    Type::write(to + at, a * scale);
    Type::write(to + at + LANES, b * scale);
  }
}
