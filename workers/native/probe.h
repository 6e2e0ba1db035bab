// Random probes of the matrix W^T W: the images of sixteen vectors of signs, from some of the rows.
#pragma once
#include "regress.h"

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

// Estimate |A|_F^2 from A Z (width x 16): that of the approximation which the first half of the probes gives,
// and of what it leaves, which the second half tests.
static double squared_norm(const float *probes, const float *image, i64 width) {
  constexpr int HALF = LANES / 2, WIDTH = 3 * HALF;
  constexpr double NOISE = 1e-6; // of images in float32
  double products[2 * LANES * LANES], system[HALF * WIDTH], norm = 0, rest = 0;
  multiply_images(probes, image, width, products);
  const double *by_images = products + LANES * LANES;
  for (int i = 0; i < HALF; ++i)
    for (int j = 0; j < HALF; ++j) {
      system[i * WIDTH + j] = products[i * LANES + j];
      system[i * WIDTH + HALF + j] = products[(HALF + j) * LANES + i];
      system[i * WIDTH + 2 * HALF + j] = by_images[i * LANES + j];
    }
  eliminate(system, HALF, WIDTH, NOISE);
  for (int i = 0; i < HALF; ++i)
    for (int j = 0; j < HALF; ++j) norm += system[i * WIDTH + 2 * HALF + j] * system[j * WIDTH + 2 * HALF + i];
  for (int test = 0; test < HALF; ++test) {
    const double *approximated = system + HALF + test;
    rest += by_images[(HALF + test) * (LANES + 1)];
    for (int i = 0; i < HALF; ++i)
      for (int j = 0; j < HALF; ++j)
        rest -= approximated[i * WIDTH] * by_images[i * LANES + j] * approximated[j * WIDTH];
  }
  return norm + rest / HALF;
}
