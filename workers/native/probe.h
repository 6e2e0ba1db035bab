// Random probes of the matrix W^T W: the images of sixteen vectors of signs, from some of the rows.
#pragma once
#include "vector.h"

constexpr int ROWS_AT_ONCE = 8;

// Add W_S^T W_S Z to `image` (width x 16), where S are the rows at or after `offset` in steps of
// `stride`, and sum_S |row|^4 to the result. `probes` is Z (width x 16), `scratch` room for eight rows.
template <class Type>
static double probe_rows(const typename Type::Element *from, i64 rows, i64 width, i64 offset, i64 stride,
                         const float *probes, float *scratch, float *image) {
  double fourths = 0;
  for (i64 first = offset; first < rows; first += ROWS_AT_ONCE * stride) {
    for (int r = 0; r < ROWS_AT_ONCE; ++r) {
      i64 row = first + r * stride;
      Vec squares = {};
      for (i64 k = 0; k < width; k += LANES) {
        Vec w = row < rows ? Type::read(from + row * width + k) : Vec{};
        store(scratch + r * width + k, w);
        squares = fma(w, w, squares);
      }
      double square = sum_lanes(squares);
      fourths += square * square;
    }
    Vec product[ROWS_AT_ONCE] = {};
    for (i64 k = 0; k < width; ++k) {
      Vec probe = load(probes + k * LANES);
#pragma clang loop unroll(full)
      for (int r = 0; r < ROWS_AT_ONCE; ++r) product[r] = fma(all(scratch[r * width + k]), probe, product[r]);
    }
    for (i64 k = 0; k < width; ++k) {
      Vec sum = load(image + k * LANES);
#pragma clang loop unroll(full)
      for (int r = 0; r < ROWS_AT_ONCE; ++r) sum = fma(all(scratch[r * width + k]), product[r], sum);
      store(image + k * LANES, sum);
    }
  }
  return fourths;
}
