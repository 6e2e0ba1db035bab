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
// `bias` the stored ones.
struct Choice {
  Vec code_scale, code_bias, scale, bias, error;
};

struct MinMax {
  template <class Type> INLINE Choice choose(const Columns &c, int, float steps) {
    Affine p = minmax_parameters(c.low, c.high, steps);
    return {p.scale, p.bias, Type::round(p.scale), Type::round(p.bias), Vec{}};
  }
};

INLINE Part quick_code(Part x, Part reciprocal, Part bias, Part top) {
  const Part rounding = constant<Part>(ROUNDING);
  return (Part)greater_bits((Part)lesser_bits(fma(x - bias, reciprocal, rounding), top), rounding) - rounding;
}

#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int IN_FLIGHT = 1; // choices of parameters that are summed together, as sums wait for themselves
#else
constexpr int IN_FLIGHT = 2;
#endif

// The squared errors of `SETS` choices of parameters.
template <int SETS>
INLINE void squared_errors(const Columns &c, int size, float steps, const Vec *scales, const Vec *biases, Vec *errors) {
  constexpr int TOGETHER = SETS < IN_FLIGHT ? SETS : IN_FLIGHT;
  const Part top = constant<Part>(ROUNDING) + constant<Part>(steps);
  Vec reciprocals[SETS];
  for (int s = 0; s < SETS; ++s) reciprocals[s] = all(1.0f) / scales[s];
  for (int first = 0; first < SETS; first += TOGETHER)
    for (int part = 0; part < PARTS; ++part) {
      Part reciprocal[TOGETHER], scale[TOGETHER], bias[TOGETHER], total[TOGETHER][2] = {};
      for (int s = 0; s < TOGETHER; ++s) {
        reciprocal[s] = part_of(reciprocals[first + s], part);
        scale[s] = part_of(scales[first + s], part);
        bias[s] = part_of(biases[first + s], part);
      }
      for (int i = 0; i < size; i += 2)
        for (int j = 0; j < 2; ++j)
          for (int s = 0; s < TOGETHER; ++s) {
            Part x = part_of(c.x[i + j], part), code = quick_code(x, reciprocal[s], bias[s], top);
            Part error = fma(-code, scale[s], x - bias[s]);
            total[s][j] = fma(error, error, total[s][j]);
          }
      for (int s = 0; s < TOGETHER; ++s) put_part(errors[first + s], part, total[s][0] + total[s][1]);
    }
}

struct CodeSums {
  Vec codes, squares, products;
};

template <int SETS>
INLINE void sum_codes(const Columns &c, int size, float steps, const Vec *scales, const Vec *biases, CodeSums *sums) {
  constexpr int TOGETHER = SETS < IN_FLIGHT ? SETS : IN_FLIGHT;
  const Part top = constant<Part>(ROUNDING) + constant<Part>(steps);
  Vec reciprocals[SETS];
  for (int s = 0; s < SETS; ++s) reciprocals[s] = all(1.0f) / scales[s];
  for (int first = 0; first < SETS; first += TOGETHER)
    for (int part = 0; part < PARTS; ++part) {
      Part reciprocal[TOGETHER], bias[TOGETHER];
      Part codes[TOGETHER][2] = {}, squares[TOGETHER][2] = {}, products[TOGETHER][2] = {};
      for (int s = 0; s < TOGETHER; ++s) {
        reciprocal[s] = part_of(reciprocals[first + s], part);
        bias[s] = part_of(biases[first + s], part);
      }
      for (int i = 0; i < size; i += 2)
        for (int j = 0; j < 2; ++j)
          for (int s = 0; s < TOGETHER; ++s) {
            Part x = part_of(c.x[i + j], part), code = quick_code(x, reciprocal[s], bias[s], top);
            codes[s][j] += code;
            squares[s][j] = fma(code, code, squares[s][j]);
            products[s][j] = fma(code, x, products[s][j]);
          }
      for (int s = 0; s < TOGETHER; ++s) {
        put_part(sums[first + s].codes, part, codes[s][0] + codes[s][1]);
        put_part(sums[first + s].squares, part, squares[s][0] + squares[s][1]);
        put_part(sums[first + s].products, part, products[s][0] + products[s][1]);
      }
    }
}

// Codes against stored parameters, found by alternating least squares: codes for given (scale, bias),
// then the least-squares (scale, bias) for those codes. Two starts of four rounds; both roundings of
// the bias and of the scale that suits it are tried, and the minmax parameters as well.
struct Careful {
  static constexpr int ROUNDS = 4;
  static constexpr int BEGINNINGS = 2;
  static constexpr float STARTS[BEGINNINGS] = {1.0f, 0.9f}; // parts of the range
  static constexpr float LEAST = 1e-12f;

  INLINE void consider(Choice &best, Vec error, Vec scale, Vec bias) {
    Int better = error < best.error;
    best.error = better ? error : best.error;
    best.scale = better ? scale : best.scale;
    best.bias = better ? bias : best.bias;
  }

  INLINE void alternate(const Columns &c, int size, float steps, Vec *scales, Vec *biases) {
    Vec length = all((float)size);
    for (int round = 0; round < ROUNDS; ++round) {
      CodeSums sums[BEGINNINGS];
      sum_codes<BEGINNINGS>(c, size, steps, scales, biases, sums);
      for (int s = 0; s < BEGINNINGS; ++s) {
        const CodeSums &q = sums[s];
        Vec determinant = fma(-q.codes, q.codes, length * q.squares);
        Vec scale = fma(-q.codes, c.sum, length * q.products) / determinant;
        Vec bias = fma(-scale, q.codes, c.sum) / length;
        Int usable = (determinant > all(1e-6f)) & (magnitude(scale) > all(LEAST));
        scales[s] = usable ? scale : scales[s];
        biases[s] = usable ? bias : biases[s];
      }
    }
  }

  // Every rounding of the bias with every rounding of the scale that suits it.
  template <class Type>
  INLINE void store_best(Choice &best, const Columns &c, int size, float steps, Vec scale, Vec bias) {
    constexpr int WAYS = sizeof(typename Type::Element) == 4 ? 1 : 2;
    Vec exact[WAYS], rounded_bias[WAYS], scales[WAYS * WAYS], biases[WAYS * WAYS], errors[WAYS * WAYS];
    CodeSums sums[WAYS];
    for (int i = 0; i < WAYS; ++i) {
      exact[i] = scale;
      rounded_bias[i] = i ? Type::towards(rounded_bias[0], bias) : Type::round(bias);
    }
    sum_codes<WAYS>(c, size, steps, exact, rounded_bias, sums);
    for (int i = 0; i < WAYS; ++i) {
      Vec fitting = fma(-rounded_bias[i], sums[i].codes, sums[i].products) / sums[i].squares;
      fitting = magnitude(fitting) > all(LEAST) ? fitting : scale;
      Vec rounded = Type::round(fitting);
      for (int j = 0; j < WAYS; ++j) {
        scales[i * WAYS + j] = j ? Type::towards(rounded, fitting) : rounded;
        biases[i * WAYS + j] = rounded_bias[i];
      }
    }
    squared_errors<WAYS * WAYS>(c, size, steps, scales, biases, errors);
    for (int i = 0; i < WAYS * WAYS; ++i) consider(best, errors[i], scales[i], biases[i]);
  }

  template <class Type> INLINE Choice choose(const Columns &c, int size, float steps) {
    Affine plain = minmax_parameters(c.low, c.high, steps);
    Choice best = {{}, {}, Type::round(plain.scale), Type::round(plain.bias), {}};
    squared_errors<1>(c, size, steps, &best.scale, &best.bias, &best.error);
    Vec range = maximum(c.high - c.low, all(SMALLEST_SCALE)), scales[BEGINNINGS], biases[BEGINNINGS];
    for (int s = 0; s < BEGINNINGS; ++s) {
      scales[s] = range * all(STARTS[s]) / all(steps);
      biases[s] = c.low + range * all((1.0f - STARTS[s]) * 0.5f);
    }
    alternate(c, size, steps, scales, biases);
    for (int s = 0; s < BEGINNINGS; ++s) store_best<Type>(best, c, size, steps, scales[s], biases[s]);
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
