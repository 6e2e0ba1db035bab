// What mx.quantize computes per group (mlx 0.32, backend/cpu/quantized.cpp), sixteen groups at once.
#pragma once
#include "vector.h"

constexpr int WIDTHS = 6;
constexpr int BITS[WIDTHS] = {2, 3, 4, 5, 6, 8};
constexpr float SMALLEST_SCALE = 1e-7f;
constexpr float ROUNDING = 12582912.0f; // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even

struct Affine {
  Vec scale, bias; // not yet rounded to storage
};

INLINE float levels(int bits) { return (float)((1 << bits) - 1); }

// x / divisor, correctly rounded given the correctly rounded reciprocal (Markstein, IBM Journal of
// Research and Development 34, 1990), unless it is so small that the remainder underflows.
INLINE Vec divide_exactly(Vec x, Vec reciprocal, Vec divisor) {
  Vec quotient = x * reciprocal;
  return fma(fma(-quotient, divisor, x), reciprocal, quotient);
}

// The extremes of a group. `edge`, the larger one in magnitude, gets a code of its own, or zero does.
struct Extremes {
  Vec edge, range;
  Int below; // whether the edge is the lower one

  INLINE Extremes of(Vec low, Vec high) {
    Int below = magnitude(low) > magnitude(high);
    return {below ? low : high, high - low, below};
  }
  // The scale that spreads the range over `steps`, with the sign that makes codes rise from the edge.
  INLINE Vec scale(const Extremes &e, float steps) {
    Vec scale = maximum(divide_exactly(e.range, all(1.0f / steps), all(steps)), all(SMALLEST_SCALE));
    return e.below ? scale : -scale;
  }
};

// Parameters for a given scale and the code of the edge in it.
INLINE Affine with_edge_code(const Extremes &e, Vec scale, Vec edge_code) {
  Int is_zero = edge_code == all(0.0f);
  return {is_zero ? scale : e.edge / edge_code, is_zero ? all(0.0f) : e.edge};
}

INLINE Affine minmax_parameters(Vec low, Vec high, float steps) {
  const Extremes e = Extremes::of(low, high);
  const Vec scale = Extremes::scale(e, steps);
  return with_edge_code(e, scale, round_even(e.edge / scale));
}

// Nearest code of `x` by true division, as mx.quantize and the encoders take it.
INLINE Vec nearest_code(Vec x, Vec scale, Vec bias, float steps) {
  Vec code = round_even((x - bias) / scale);
  return minimum(maximum(code, all(0.0f)), all(steps));
}
