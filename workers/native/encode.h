// The encoders `minmax` and `careful`, and the bit stream that MLX stores codes in.
#pragma once
#include "affine.h"
#include "tile.h"

constexpr int PACKED = 32; // codes that fill a whole number of words at any width
constexpr int LARGEST_GROUP = 128;

// Write 32 codes as a little-endian bit stream.
INLINE void pack(const u8 *codes, int bits, u32 *words) {
  u64 pending = 0;
  int filled = 0;
  for (int i = 0; i < PACKED; ++i) {
    pending |= (u64)codes[i] << filled;
    filled += bits;
    if (filled >= 32) {
      *words++ = (u32)pending;
      pending >>= 32;
      filled -= 32;
    }
  }
}

// Sixteen groups side by side: lane j of `x[i]` is weight i of group j.
struct alignas(64) Columns {
  Vec x[LARGEST_GROUP];
  Vec low, high, sum;
};

template <class Type>
INLINE void read_columns(Columns &c, const typename Type::Element *from, int groups, int size) {
  for (int first = 0; first < size; first += TILE) read_tile<Type>(from + first, size, groups, c.x + first);
  c.low = c.high = c.x[0];
  c.sum = Vec{};
  for (int i = 0; i < size; ++i) {
    c.low = minimum(c.low, c.x[i]);
    c.high = maximum(c.high, c.x[i]);
    c.sum += c.x[i];
  }
}

// A choice of parameters for each lane: `code_*` are the ones that codes are taken against, `scale` and
// `bias` the stored ones. `plain_error` is that of the stored minmax parameters.
struct Choice {
  Vec code_scale, code_bias, scale, bias, error, plain_error;
};

struct MinMax {
  template <class Type> INLINE Choice choose(const Columns &c, int, float steps) {
    Affine p = minmax_parameters(c.low, c.high, steps);
    return {p.scale, p.bias, Type::round(p.scale), Type::round(p.bias), Vec{}, Vec{}};
  }
};

INLINE Part quick_code(Part x, Part reciprocal, Part bias, Part top) {
  const Part rounding = constant<Part>(ROUNDING);
  return (Part)greater_bits((Part)lesser_bits(fma(x - bias, reciprocal, rounding), top), rounding) - rounding;
}

INLINE Vec squared_error(const Columns &c, int size, float steps, Vec scales, Vec biases) {
  const Vec reciprocals = all(1.0f) / scales;
  const Part top = constant<Part>(ROUNDING) + constant<Part>(steps);
  Part sums[PARTS];
  for (int part = 0; part < PARTS; ++part) {
    const Part reciprocal = part_of(reciprocals, part), scale = part_of(scales, part), bias = part_of(biases, part);
    Part total[2] = {};
    for (int i = 0; i < size; i += 2)
      for (int j = 0; j < 2; ++j) {
        Part x = part_of(c.x[i + j], part), code = quick_code(x, reciprocal, bias, top);
        Part error = fma(-code, scale, x - bias);
        total[j] = fma(error, error, total[j]);
      }
    sums[part] = total[0] + total[1];
  }
  return load_as<Vec>(sums);
}

struct CodeSums {
  Vec codes, squares, products;
};

INLINE CodeSums sum_codes(const Columns &c, int size, float steps, Vec scales, Vec biases) {
  const Vec reciprocals = all(1.0f) / scales;
  const Part top = constant<Part>(ROUNDING) + constant<Part>(steps);
  Part codes[PARTS], squares[PARTS], products[PARTS];
  for (int part = 0; part < PARTS; ++part) {
    const Part reciprocal = part_of(reciprocals, part), bias = part_of(biases, part);
    Part sum[2] = {}, square[2] = {}, product[2] = {};
    for (int i = 0; i < size; i += 2)
      for (int j = 0; j < 2; ++j) {
        Part x = part_of(c.x[i + j], part), code = quick_code(x, reciprocal, bias, top);
        sum[j] += code;
        square[j] = fma(code, code, square[j]);
        product[j] = fma(code, x, product[j]);
      }
    codes[part] = sum[0] + sum[1];
    squares[part] = square[0] + square[1];
    products[part] = product[0] + product[1];
  }
  return {load_as<Vec>(codes), load_as<Vec>(squares), load_as<Vec>(products)};
}

// Codes against stored parameters, found by alternating least squares: codes for given (scale, bias),
// then the least-squares (scale, bias) for those codes. Two starts of four rounds; both roundings of
// the bias and of the scale that suits it are tried, and the minmax parameters as well.
struct Careful {
  static constexpr int ROUNDS = 4;
  static constexpr float STARTS[2] = {1.0f, 0.9f}; // parts of the range
  static constexpr float LEAST = 1e-12f;

  INLINE void consider(Choice &best, const Columns &c, int size, float steps, Vec scale, Vec bias) {
    Vec error = squared_error(c, size, steps, scale, bias);
    Int better = error < best.error;
    best.error = better ? error : best.error;
    best.scale = better ? scale : best.scale;
    best.bias = better ? bias : best.bias;
  }

  INLINE Affine alternate(const Columns &c, int size, float steps, Affine p) {
    Vec length = all((float)size);
    for (int round = 0; round < ROUNDS; ++round) {
      CodeSums q = sum_codes(c, size, steps, p.scale, p.bias);
      Vec determinant = fma(-q.codes, q.codes, length * q.squares);
      Vec scale = fma(-q.codes, c.sum, length * q.products) / determinant;
      Vec bias = fma(-scale, q.codes, c.sum) / length;
      Int usable = (determinant > all(1e-6f)) & (magnitude(scale) > all(LEAST));
      p.scale = usable ? scale : p.scale;
      p.bias = usable ? bias : p.bias;
    }
    return p;
  }

  template <class Type>
  INLINE void store_best(Choice &best, const Columns &c, int size, float steps, Affine p) {
    Vec nearest = Type::round(p.bias);
    Vec biases[2] = {nearest, Type::towards(nearest, p.bias)};
    constexpr int ROUNDINGS = sizeof(typename Type::Element) == 4 ? 1 : 2;
    for (int i = 0; i < ROUNDINGS; ++i) {
      CodeSums q = sum_codes(c, size, steps, p.scale, biases[i]);
      Vec scale = fma(-biases[i], q.codes, q.products) / q.squares;
      scale = magnitude(scale) > all(LEAST) ? scale : p.scale;
      Vec rounded = Type::round(scale);
      consider(best, c, size, steps, rounded, biases[i]);
      if (ROUNDINGS == 2) consider(best, c, size, steps, Type::towards(rounded, scale), biases[i]);
    }
  }

  template <class Type> INLINE Choice choose(const Columns &c, int size, float steps) {
    Affine plain = minmax_parameters(c.low, c.high, steps);
    Choice best = {{}, {}, Type::round(plain.scale), Type::round(plain.bias), {}, {}};
    best.error = best.plain_error = squared_error(c, size, steps, best.scale, best.bias);
    Vec range = maximum(c.high - c.low, all(SMALLEST_SCALE));
    for (float part : STARTS) {
      Vec margin = range * all((1.0f - part) * 0.5f);
      Affine start = {range * all(part) / all(steps), c.low + margin};
      store_best<Type>(best, c, size, steps, alternate(c, size, steps, start));
    }
    best.code_scale = best.scale;
    best.code_bias = best.bias;
    return best;
  }
};

template <class Type, class Encoder>
static void encode(const void *weights, i64 groups, int size, int bits, u32 *codes, void *scales, void *biases) {
  using Element = typename Type::Element;
  const float steps = levels(bits);
  Columns c;
  alignas(64) u8 row[LANES][LARGEST_GROUP];
  alignas(64) Element scale[LANES], bias[LANES];
  for (i64 first = 0; first < groups; first += LANES) {
    int count = groups - first < LANES ? (int)(groups - first) : LANES;
    const Element *from = (const Element *)weights + first * size;
    read_columns<Type>(c, from, count, size);
    Choice p = Encoder::template choose<Type>(c, size, steps);
    Type::write(scale, p.scale);
    Type::write(bias, p.bias);
    __builtin_memcpy((Element *)scales + first, scale, count * sizeof(Element));
    __builtin_memcpy((Element *)biases + first, bias, count * sizeof(Element));
    for (int lane = 0; lane < count; ++lane) {
      Vec code_scale = all(p.code_scale[lane]), code_bias = all(p.code_bias[lane]);
      for (int i = 0; i < size; i += LANES) {
        Vec code = nearest_code(Type::read(from + lane * size + i), code_scale, code_bias, steps);
        store(row[lane] + i, __builtin_convertvector(__builtin_convertvector(code, Int), Byte));
      }
      for (int i = 0; i < size; i += PACKED)
        pack(row[lane] + i, bits, codes + ((first + lane) * size + i) / PACKED * bits);
    }
  }
}
