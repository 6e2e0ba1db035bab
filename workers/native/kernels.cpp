// Everything that the Python side calls. See vector.h for how results stay the same on every machine.
#include "encode.h"
#include "floats.h"
#include "probe.h"
#include "rotate.h"
#include "sweep.h"

// Add the errors and power sums of `count` weights (a multiple of 32) to `out`. Bit i of `sizes` asks
// for groups of 32 << i. `energies` takes the sum of squares of every block of 4096.
EXPORT void bitbudget_sweep(const void *weights, i64 count, int storage, int sizes, int against_stored,
                            double *energies, SweepResult *out) {
  BlockState state;
  with_storage(storage, [&](auto type) {
    using Type = decltype(type);
    auto from = (const typename Type::Element *)weights;
    for (i64 at = 0; at < count; at += BLOCK) {
      int length = count - at < BLOCK ? (int)(count - at) : BLOCK;
      energies[at / BLOCK] = sweep_block<Type>(state, from + at, length, sizes, against_stored, *out);
    }
  });
}

// Errors on chosen blocks of 4096: with codes against the stored minmax scale, and by `careful`.
EXPORT void bitbudget_sample(const void *weights, i64 count, const i64 *blocks, i64 chosen, int storage, int sizes,
                             double (*stored)[WIDTHS * SIZES], double (*careful)[WIDTHS * SIZES]) {
  BlockState state;
  with_storage(storage, [&](auto type) {
    using Type = decltype(type);
    for (i64 i = 0; i < chosen; ++i) {
      i64 at = blocks[i] * BLOCK;
      auto from = (const typename Type::Element *)weights + at;
      int length = count - at < BLOCK ? (int)(count - at) : BLOCK;
      SweepResult result = {};
      sweep_block<Type>(state, from, length, sizes, true, result);
      __builtin_memcpy(stored[i], result.errors, sizeof result.errors);
      careful_block<Type>(from, length, sizes, careful[i]);
    }
  });
}

// Rotate `count` weights that begin at index `start` of a tensor of `width` columns; one sign a column.
EXPORT void bitbudget_rotate(const void *weights, i64 count, int storage, const float *signs, i64 width, i64 start,
                             void *out) {
  with_storage(storage, [&](auto type) {
    using Element = typename decltype(type)::Element;
    rotate<decltype(type)>((const Element *)weights, count, signs, width, start, (Element *)out);
  });
}

// Quantize `groups` groups of `size` weights; codes, scales and biases as MLX stores them.
EXPORT void bitbudget_encode_minmax(const void *weights, i64 groups, int size, int bits, int storage,
                                    u32 *codes, void *scales, void *biases) {
  with_storage(storage, [&](auto type) {
    encode<decltype(type), MinMax>(weights, groups, size, bits, codes, scales, biases);
  });
}

EXPORT void bitbudget_encode_careful(const void *weights, i64 groups, int size, int bits, int storage,
                                     u32 *codes, void *scales, void *biases) {
  with_storage(storage, [&](auto type) {
    encode<decltype(type), Careful>(weights, groups, size, bits, codes, scales, biases);
  });
}

EXPORT void bitbudget_pack(const u8 *codes, i64 count, int bits, u32 *words) {
  for (i64 at = 0; at < count; at += PACKED) pack(codes + at, bits, words + at / PACKED * bits);
}

// Squared error of mxfp4, mxfp8 or nvfp4. `careful` also tries the neighbours of a group's scale.
EXPORT double bitbudget_float_errors(const void *weights, i64 groups, int mode, int storage, int careful) {
  double total = 0;
  with_storage(storage, [&](auto type) {
    with_mode(mode, [&](auto format) {
      using Type = decltype(type);
      total = float_errors<Type, decltype(format)>((const typename Type::Element *)weights, groups, careful);
    });
  });
  return total;
}

EXPORT void bitbudget_encode_floats(const void *weights, i64 groups, int mode, int storage, int careful,
                                    u8 *codes, u8 *scales) {
  with_storage(storage, [&](auto type) {
    with_mode(mode, [&](auto format) {
      using Type = decltype(type);
      encode_floats<Type, decltype(format)>((const typename Type::Element *)weights, groups, careful, codes, scales);
    });
  });
}

// See probe_rows; `width` is a multiple of 16.
EXPORT double bitbudget_probe(const void *weights, i64 rows, i64 width, i64 offset, i64 stride, int storage,
                              const float *probes, float *scratch, float *image) {
  double fourths = 0;
  with_storage(storage, [&](auto type) {
    using Type = decltype(type);
    fourths = probe_rows<Type>((const typename Type::Element *)weights, rows, width, offset, stride, probes, scratch,
                               image);
  });
  return fourths;
}
