// Everything that the Python side calls. See vector.h for how results stay the same on every machine.
#include "columns.h"
#include "descent.h"
#include "encode.h"
#include "floats.h"
#include "probe.h"
#include "regress.h"
#include "rotate.h"
#include "sweep.h"

// Add the errors and power sums of `count` weights (a multiple of 32) to `out`. Bit i of `sizes` asks
// for the errors of minmax in groups of 32 << i, bit i of `modes` for float mode i. `careful` takes float
// scales among their neighbours. `known`, unless it is null, takes KNOWN rows (see put_known) of as many
// chunks as fill whole blocks.
EXPORT void bitbudget_sweep(const void *weights, i64 count, int storage, int sizes, int modes, int careful,
                            float *known, SweepResult *out) {
  BlockState state;
  Double totals[KNOWN] = {};
  const i64 stride = (count + BLOCK - 1) / BLOCK * CHUNKS;
  with_storage(storage, [&](auto type) {
    using Type = decltype(type);
    auto from = (const typename Type::Element *)weights;
    for (i64 at = 0; at < count; at += BLOCK) {
      int length = count - at < BLOCK ? (int)(count - at) : BLOCK;
      if (begin_block<Type>(state, from + at, length, *out)) {
        add_affine_errors<Type>(state, length, sizes, out->errors);
        if (known) put_known(state, stride, known + at / CHUNK, totals);
      }
      add_float_errors(state, length, modes, careful, *out);
    }
  });
  for (int i = 0; i < KNOWN; ++i) out->known[i] += sum_lanes(totals[i]);
}

// Add to every CHUNK of `count` weights (a multiple of 32) its errors by `careful`.
EXPORT void bitbudget_careful(const void *weights, i64 count, int storage, int sizes, double (*errors)[FORMATS]) {
  with_storage(storage, [&](auto type) {
    using Type = decltype(type);
    careful_errors<Type>((const typename Type::Element *)weights, count, sizes, errors);
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

// See squared_norm.
EXPORT double bitbudget_squared_norm(const float *probes, const float *image, i64 width) {
  return squared_norm(probes, image, width);
}

// See regress.
EXPORT void bitbudget_regress(double *rows, i64 count, i64 predictors, i64 width, double *products) {
  regress(rows, count, (int)predictors, (int)width, products);
}

// See add_columns.
EXPORT void bitbudget_columns(const void *weights, i64 rows, i64 width, i64 offset, i64 stride, int storage,
                              float *energies, float *errors) {
  with_storage(storage, [&](auto type) {
    using Type = decltype(type);
    add_columns<Type>((const typename Type::Element *)weights, rows, width, offset, stride, energies, errors);
  });
}

// What a weight (width, rows) is coded in; `steps` and `lows` are null but for two-level formats.
struct Target {
  i64 width, rows;
  int bits, group, layout, storage;
  u8 *codes;
  float *scales, *biases, *steps, *lows;

  Shape shape() const { return {width, rows, bits, group}; }
  Coding coding() const { return {codes, scales, biases, steps, lows}; }
};

// Code a weight of `rows`, a multiple of PANEL, by itself; see code_alone.
EXPORT void bitbudget_code_alone(const Target *to, const float *weight, int careful, float *scratch) {
  with_layout(to->layout, to->storage, to->bits, [&](auto grid_of) {
    code_alone(grid_of, to->shape(), weight, to->coding(), careful, scratch);
  });
}

// Code a weight of `rows`, a multiple of PANEL, by error feedback; see feed_back.
EXPORT void bitbudget_feed_back(const Target *to, const float *weight, const float *pull, const float *importance,
                                const float *links, float *left, float *scratch) {
  with_layout(to->layout, to->storage, to->bits, [&](auto grid_of) {
    feed_back(grid_of, to->shape(), weight, pull, importance, links, left, to->coding(), scratch);
  });
}

// Lower the objective of one term, or of two, by `sweeps` sweeps; see descend.
EXPORT void bitbudget_descend(const Target *to, int count, const float **factors, int sweeps, float *error,
                              float *scratch) {
  Terms terms = {{}, count, false};
  for (int t = 0; t < count; ++t) {
    terms.of[t] = {factors[3 * t], factors[3 * t + 1], factors[3 * t + 2]};
    terms.coupled |= terms.of[t].rows != nullptr;
  }
  with_layout(to->layout, to->storage, to->bits, [&](auto grid_of) {
    descend(grid_of, to->shape(), terms, error, to->coding(), sweeps, scratch);
  });
}
