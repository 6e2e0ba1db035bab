// Random probes of the matrix W^T W: the images of sixteen vectors of signs, from some of the rows.
#pragma once
#include "vector.h"

#if defined(__AVX512F__)
constexpr int ROWS_AT_ONCE = 8; // whose products live in registers together
#else
constexpr int ROWS_AT_ONCE = 4;
#endif
constexpr int PADDING = LANES; // rows a power of two apart would share few places of the cache

// Add W_S^T W_S Z to `image` (width x 16), where S are the rows at or after `offset` in steps of
// `stride`, and sum_S |row|^4 to the result. `probes` is Z (width x 16), `scratch` room for eight rows with
// their padding.
template <class Type>
static double probe_rows(const typename Type::Element *from, i64 rows, i64 width, i64 offset, i64 stride,
                         const float *probes, float *scratch, float *image) {
  const i64 padded = width + PADDING;
  double fourths = 0;
  for (i64 first = offset; first < rows; first += ROWS_AT_ONCE * stride) {
    for (int r = 0; r < ROWS_AT_ONCE; ++r) {
      i64 row = first + r * stride;
      Vec squares = {};
      for (i64 k = 0; k < width; k += LANES) {
        Vec w = row < rows ? Type::read(from + row * width + k) : Vec{};
        store(scratch + r * padded + k, w);
        squares = fma(w, w, squares);
      }
      double square = sum_lanes(squares);
      fourths += square * square;
    }
    Vec product[ROWS_AT_ONCE] = {};
    for (i64 k = 0; k < width; ++k) {
      Vec probe = load(probes + k * LANES);
#pragma clang loop unroll(full)
      for (int r = 0; r < ROWS_AT_ONCE; ++r) product[r] = fma(all(scratch[r * padded + k]), probe, product[r]);
    }
    for (i64 k = 0; k < width; ++k) {
      Vec sum = load(image + k * LANES);
#pragma clang loop unroll(full)
      for (int r = 0; r < ROWS_AT_ONCE; ++r) sum = fma(all(scratch[r * padded + k]), product[r], sum);
      store(image + k * LANES, sum);
    }
  }
  return fourths;
}

// Products of the sixteen probes, then of their images, with the images: (32 x 16) sums over `width` rows.
static void multiply_images(const float *probes, const float *image, i64 width, double *products) {
  constexpr int TOGETHER = 8;
  for (int first = 0; first < 2 * LANES; first += TOGETHER) {
    const float *left = first < LANES ? probes + first : image + first - LANES;
    Double sums[TOGETHER] = {};
    for (i64 k = 0; k < width; ++k) {
      const Double right = __builtin_convertvector(load(image + k * LANES), Double);
#pragma clang loop unroll(full)
      for (int i = 0; i < TOGETHER; ++i) sums[i] = fma(Double{} + (double)left[k * LANES + i], right, sums[i]);
    }
    for (int i = 0; i < TOGETHER; ++i) store(products + (first + i) * LANES, sums[i]);
  }
}
