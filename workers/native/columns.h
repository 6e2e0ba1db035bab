// How the weights of a column and the error they are stored with add up over rows.
#pragma once
#include "affine.h"

constexpr int COLUMN_GROUP = 32;
constexpr int COLUMN_BITS = 4;

// Sixteen groups of 32 or fewer: their parameters, and squares of weights and errors by weight.
template <class Type>
static void add_column_groups(const typename Type::Element *from, int groups, float *energies, float *errors) {
  Vec low[LANES], high[LANES];
  for (int g = 0; g < LANES; ++g) {
    Vec a = g < groups ? Type::read(from + g * COLUMN_GROUP) : Vec{};
    Vec b = g < groups ? Type::read(from + g * COLUMN_GROUP + LANES) : Vec{};
    low[g] = minimum(a, b);
    high[g] = maximum(a, b);
  }
  Affine p = minmax_parameters(reduce_rows<Min>(low), reduce_rows<Max>(high), levels(COLUMN_BITS));
  alignas(64) float divisor[LANES], scale[LANES], bias[LANES];
  store(divisor, p.scale);
  store(scale, Type::round(p.scale));
  store(bias, Type::round(p.bias));
  for (int g = 0; g < groups; ++g)
    for (int i = 0; i < COLUMN_GROUP; i += LANES) {
      int at = g * COLUMN_GROUP + i;
      Vec w = Type::read(from + at);
      Vec code = nearest_code(w, all(divisor[g]), all(bias[g]), levels(COLUMN_BITS));
      Vec error = fma(-code, all(scale[g]), w - all(bias[g]));
      store(energies + at, fma(w, w, load(energies + at)));
      store(errors + at, fma(error, error, load(errors + at)));
    }
}

// Add the squares of the weights of each column to `energies`, and those of their errors in 4 bits and
// groups of 32 by minmax to `errors`, over the rows at or after `offset` in steps of `stride`. `width` is
// a multiple of 32.
template <class Type>
static void add_columns(const typename Type::Element *from, i64 rows, i64 width, i64 offset, i64 stride,
                        float *energies, float *errors) {
  constexpr i64 TOGETHER = LANES * COLUMN_GROUP;
  for (i64 row = offset; row < rows; row += stride)
    for (i64 at = 0; at < width; at += TOGETHER) {
      i64 groups = (width - at < TOGETHER ? width - at : TOGETHER) / COLUMN_GROUP;
      add_column_groups<Type>(from + row * width + at, (int)groups, energies + at, errors + at);
    }
}
