// The formats mxfp4, mxfp8 and nvfp4 as MLX's GPU backends encode them (mlx 0.32, fp_quantized.h): in
// float32, with the power-of-two scale rounded up. MLX's CPU backend works in the type of the weights,
// which gives the same codes for float32 and differs on some roundings for bf16.
#pragma once
#include "encode.h"

enum FloatMode : int { MXFP4 = 0, MXFP8 = 1, NVFP4 = 2 };
constexpr int MODES = 3;
constexpr float LARGEST_E4M3 = 448.0f;
constexpr float LARGEST_E2M1 = 6.0f;
constexpr float SMALLEST_E8M0 = 0x1p-127f;

INLINE Vec with_sign_of(Vec size, Vec x) { return (Vec)((Word)size | ((Word)x & 0x80000000u)); }

// The nearest value to `x`, which is not negative, with `MANTISSA` bits after the leading one, subnormal
// below `normal`, at most `largest`; ties to even. Adding 1.5 * 2^(23 - MANTISSA) times the power of two
// at or below x leaves that many bits.
template <int MANTISSA> INLINE Vec nearest_float(Vec x, Vec normal, Vec largest) {
  Vec bounded = (Vec)lesser_bits(x, largest);
  Vec power = (Vec)(greater_bits(bounded, normal) & 0x7F800000);
  Vec shift = power * all(1.5f * (float)(1 << (23 - MANTISSA)));
  return (bounded + shift) - shift;
}

// Elements: `value` rounds a magnitude to the nearest representable, ties to even; `code` gives the bits
// of such a value with a sign.
struct E2M1 {
  static constexpr float LARGEST = LARGEST_E2M1;
  static constexpr int BITS_PER_CODE = 4;
  INLINE Vec value(Vec x, Vec unit) { return nearest_float<1>(x, unit, unit * all(LARGEST)); }
  INLINE Vec value(Vec x) { return value(x, all(1.0f)); }
  INLINE Int code(Vec value) {
    Vec a = magnitude(value);
    Vec number = a <= all(2.0f) ? a + a : a <= all(4.0f) ? a + all(2.0f) : all(7.0f);
    Int sign = (Int)((Word)value >> 28 & 8u); // a zero is stored as +0, as the CPU backend does
    return a == all(0.0f) ? Int{} : __builtin_convertvector(number, Int) | sign;
  }
};

struct E4M3 {
  static constexpr float LARGEST = LARGEST_E4M3;
  static constexpr int BITS_PER_CODE = 8;
  INLINE Vec value(Vec x, Vec unit) { return nearest_float<3>(x, unit * all(0x1p-6f), unit * all(LARGEST)); }
  INLINE Vec value(Vec x) { return value(x, all(1.0f)); }
  INLINE Int code(Vec value) {
    Vec a = magnitude(value);
    Int normal = (Int)((Word)a >> 20) - (120 << 3);
    Int subnormal = __builtin_convertvector(a * all(512.0f), Int);
    return (a < all(0x1p-6f) ? subnormal : normal) | (Int)((Word)value >> 24 & 0x80u);
  }
};

// Scales: `nearest` is MLX's choice for a group; `other` a neighbour that may fit better.
struct E8M0 {
  static constexpr bool IS_POWER = true;
  static constexpr int NEIGHBOURS = 1;
  INLINE Vec nearest(Vec x) {
    Word exponent = ((Word)x + 0x7FFFFFu) >> 23;
    exponent = exponent > 254u ? Word{} + 254u : exponent;
    return exponent == 0u ? all(SMALLEST_E8M0) : (Vec)(exponent << 23);
  }
  INLINE Vec other(Vec scale, int) {
    return scale > all(0x1p-126f) ? scale * all(0.5f) : all(SMALLEST_E8M0);
  }
  INLINE Int code(Vec scale) { return (Int)((Word)scale >> 23); }
};

struct ScaleE4M3 {
  static constexpr bool IS_POWER = false;
  static constexpr int NEIGHBOURS = 2;
  INLINE Vec nearest(Vec x) { return E4M3::value(x); }
  INLINE Vec other(Vec scale, int which) {
    Vec below = scale < all(0x1p-6f) ? scale - all(0x1p-9f) : scale * all(0x1.ep-1f);
    return E4M3::value(maximum(which ? scale * all(0x1.2p0f) + all(0x1p-10f) : below, all(0.0f)));
  }
  INLINE Int code(Vec scale) { return E4M3::code(scale); }
};

template <class Element_, class Scale_, int SIZE_> struct FloatFormat {
  using Element = Element_;
  using Scale = Scale_;
  // Half the scale gives an element with an exponent of its own nothing but saturation.
  static constexpr int NEIGHBOURS = Element_::BITS_PER_CODE == 8 ? 0 : Scale_::NEIGHBOURS;
  static constexpr int SIZE = SIZE_;
  static constexpr int VECTORS = SIZE / LANES;
};
using Mxfp4 = FloatFormat<E2M1, E8M0, 32>;
using Mxfp8 = FloatFormat<E4M3, E8M0, 32>;
using Nvfp4 = FloatFormat<E2M1, ScaleE4M3, 16>;

template <class Body> INLINE void with_mode(int mode, Body body) {
  switch (mode) {
  case MXFP4: body(Mxfp4{}); break;
  case MXFP8: body(Mxfp8{}); break;
  default: body(Nvfp4{});
  }
}

INLINE Vec inverse_scale(Vec scale) { return scale == all(0.0f) ? all(0.0f) : all(1.0f) / scale; }

// Sixteen groups in rows: their weights, and per lane the scale chosen for a group.
template <class Format> struct alignas(64) Rows {
  Vec x[LANES][Format::VECTORS];
  Vec scale, error;
};

template <class Format> INLINE Vec group_errors(const Rows<Format> &r, Vec scale) {
  Vec inverse = inverse_scale(scale), errors[LANES];
  for (int row = 0; row < LANES; ++row) {
    errors[row] = Vec{};
    for (int i = 0; i < Format::VECTORS; ++i) {
      Vec x = magnitude(r.x[row][i]), element = Format::Element::value(x * all(inverse[row]));
      Vec error = fma(-element, all(scale[row]), x);
      errors[row] = fma(error, error, errors[row]);
    }
  }
  return reduce_rows<Add>(errors);
}

template <class Type, class Format>
INLINE void choose_scales(Rows<Format> &r, const typename Type::Element *from, int groups, bool careful) {
  Vec largest[LANES];
  for (int row = 0; row < LANES; ++row) {
    largest[row] = Vec{};
    for (int i = 0; i < Format::VECTORS; ++i) {
      r.x[row][i] = row < groups ? Type::read(from + row * Format::SIZE + i * LANES) : Vec{};
      largest[row] = maximum(largest[row], magnitude(r.x[row][i]));
    }
  }
  r.scale = Format::Scale::nearest(reduce_rows<Max>(largest) / all(Format::Element::LARGEST));
  r.error = group_errors(r, r.scale);
  if (!careful) return;
  Vec first = r.scale;
  for (int which = 0; which < Format::NEIGHBOURS; ++which) {
    Vec scale = Format::Scale::other(first, which);
    Vec error = group_errors(r, scale);
    Int better = error < r.error;
    r.scale = better ? scale : r.scale;
    r.error = better ? error : r.error;
  }
}

// Squared errors of sixteen groups that stand side by side in columns, with some scales.
template <class Format, int CANDIDATES> struct FloatErrors {
  using Element = typename Format::Element;
  Vec scale[CANDIDATES], inverse[CANDIDATES], total[CANDIDATES];

  INLINE void start(FloatErrors &f, const Vec *columns) {
    Vec largest = {};
    for (int i = 0; i < Format::SIZE; ++i) largest = maximum(largest, magnitude(columns[i]));
    const Vec first = Format::Scale::nearest(largest / all(Format::Element::LARGEST));
    for (int c = 0; c < CANDIDATES; ++c) {
      f.scale[c] = c ? Format::Scale::other(first, c - 1) : first;
      f.inverse[c] = inverse_scale(f.scale[c]);
      f.total[c] = Vec{};
    }
  }
  // A scale that is a power of two moves the grid instead of the weight, which gives the same bits: what
  // underflows then has a square of zero.
  INLINE Vec error(const FloatErrors &f, int c, Vec x) {
    if constexpr (Format::Scale::IS_POWER)
      return x - Element::value(x, f.scale[c]);
    else
      return fma(-Element::value(x * f.inverse[c], all(1.0f)), f.scale[c], x);
  }
  INLINE void add(FloatErrors &f, Vec weight) {
    Vec x = magnitude(weight);
    for (int c = 0; c < CANDIDATES; ++c) {
      Vec e = error(f, c, x);
      f.total[c] = fma(e, e, f.total[c]);
    }
  }
  INLINE Vec best(const FloatErrors &f) {
    Vec least = f.total[0];
    for (int c = 1; c < CANDIDATES; ++c) least = minimum(least, f.total[c]);
    return least;
  }
};

// Add to `total` the squared errors of `SETS` times sixteen groups, each with the best of some scales.
template <class Format, int CANDIDATES, int SETS> INLINE void add_best_errors(const Vec *columns, Vec &total) {
  FloatErrors<Format, CANDIDATES> sets[SETS];
  for (int s = 0; s < SETS; ++s) sets[s].start(sets[s], columns + s * Format::SIZE);
  for (int i = 0; i < Format::SIZE; ++i)
    for (int s = 0; s < SETS; ++s) sets[s].add(sets[s], columns[s * Format::SIZE + i]);
  for (int s = 0; s < SETS; ++s) total += sets[s].best(sets[s]);
}

template <class Type, class Format>
static void encode_floats(const typename Type::Element *from, i64 groups, bool careful, u8 *codes, u8 *scales) {
  Rows<Format> r;
  u8 row_codes[Format::SIZE];
  for (i64 first = 0; first < groups; first += LANES) {
    int count = groups - first < LANES ? (int)(groups - first) : LANES;
    choose_scales<Type>(r, from + first * Format::SIZE, count, careful);
    Int scale_codes = Format::Scale::code(r.scale);
    Vec inverse = inverse_scale(r.scale);
    for (int row = 0; row < count; ++row) {
      scales[first + row] = (u8)scale_codes[row];
      for (int i = 0; i < Format::VECTORS; ++i) {
        Vec scaled = r.x[row][i] * all(inverse[row]);
        Vec value = with_sign_of(Format::Element::value(magnitude(scaled)), scaled); // a zero has a sign, too
        store(row_codes + i * LANES, __builtin_convertvector(Format::Element::code(value), Byte));
      }
      u8 *to = codes + (first + row) * Format::SIZE * Format::Element::BITS_PER_CODE / 8;
      if constexpr (Format::Element::BITS_PER_CODE == 8)
        __builtin_memcpy(to, row_codes, Format::SIZE);
      else
        for (int i = 0; i < Format::SIZE / 2; ++i) to[i] = row_codes[2 * i] | row_codes[2 * i + 1] << 4;
    }
  }
}
