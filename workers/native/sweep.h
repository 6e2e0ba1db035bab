// Squared error of all affine formats, with power sums, in one pass over the weights.
//
// Weights go in blocks of 4096 that stay in the first cache. Within a block sums are float32 in
// sixteen lanes, over blocks float64. Codes come from a multiplication by the reciprocal of the scale
// and one rounding; they differ from those of a true division on exact ties only.
#pragma once
#include "floats.h"

constexpr int BLOCK = 4096;
constexpr int CHUNK = 128; // what `careful` is sampled by: one of the largest groups
constexpr int SMALLEST_GROUP = 32;
constexpr int SIZES = 3; // group sizes 32, 64 and 128
constexpr int FORMATS = WIDTHS * SIZES;
constexpr int GROUPS = BLOCK / SMALLEST_GROUP;
constexpr int KURTOSIS_BINS = 512;
constexpr int KURTOSIS_BINS_PER_OCTAVE = 64;

#if defined(__AVX512F__)
constexpr int AT_ONCE = 6; // formats whose sums live in registers together
#else
constexpr int AT_ONCE = 2;
#endif

struct PowerSums {
  double count, sum, squares, cubes, fourths, largest, outliers, nans, infinities;
};

INLINE void add(PowerSums &to, const PowerSums &from) {
  to.count += from.count;
  to.sum += from.sum;
  to.squares += from.squares;
  to.cubes += from.cubes;
  to.fourths += from.fourths;
  to.largest = from.largest > to.largest ? from.largest : to.largest;
}

struct SweepResult {
  double errors[FORMATS]; // by width, then by group size
  double floats[MODES];
  PowerSums sums;
  double kurtosis_histogram[KURTOSIS_BINS]; // groups of 128, by log2 of E[w^4] / E[w^2]^2
};

struct alignas(64) BlockState {
  float weights[BLOCK];
  float low[SIZES][GROUPS], high[SIZES][GROUPS], edge[GROUPS];
  float squares[GROUPS], fourths[GROUPS];
  float reciprocal[WIDTHS][GROUPS], divisor[WIDTHS][GROUPS], scale[WIDTHS][GROUPS];
};

// Read `count` weights (a multiple of 32) and reduce every group of 32.
template <class Type>
static void read_block(BlockState &s, const typename Type::Element *from, int count, PowerSums &total) {
  Vec sum = {}, squares = {}, cubes = {}, fourths = {}, largest = {};
  for (int first = 0; first < count / SMALLEST_GROUP; first += LANES) {
    Vec low[LANES], high[LANES], square[LANES], fourth[LANES];
    for (int row = 0; row < LANES; ++row) {
      int at = (first + row) * SMALLEST_GROUP;
      Vec a = {}, b = {};
      if (at < count) {
        a = Type::read(from + at);
        b = Type::read(from + at + LANES);
        store(s.weights + at, a);
        store(s.weights + at + LANES, b);
      }
      Vec a2 = a * a, b2 = b * b;
      low[row] = minimum(a, b);
      high[row] = maximum(a, b);
      square[row] = a2 + b2;
      fourth[row] = fma(a2, a2, b2 * b2);
      sum += a + b;
      squares += square[row];
      fourths += fourth[row];
      cubes += fma(a2, a, b2 * b);
    }
    Vec lowest = reduce_rows<Min>(low), highest = reduce_rows<Max>(high);
    store(s.low[0] + first, lowest);
    store(s.high[0] + first, highest);
    store(s.squares + first, reduce_rows<Add>(square));
    store(s.fourths + first, reduce_rows<Add>(fourth));
    largest = maximum(largest, maximum(magnitude(lowest), magnitude(highest)));
  }
  for (int g = (count / SMALLEST_GROUP + LANES - 1) / LANES * LANES; g < GROUPS; g += LANES) {
    store(s.low[0] + g, Vec{}); // groups past the end are empty
    store(s.high[0] + g, Vec{});
  }
  total.count = count;
  total.sum = sum_lanes(sum);
  total.squares = sum_lanes(squares);
  total.cubes = sum_lanes(cubes);
  total.fourths = sum_lanes(fourths);
  for (int i = 0; i < LANES; ++i) total.largest = largest[i] > total.largest ? largest[i] : total.largest;
}

// Extremes of groups of 64 and 128 from those of 32; groups past the end are empty (0, 0).
INLINE void merge_groups(BlockState &s, int count) {
  for (int size = 1; size < SIZES; ++size) {
    int groups = count / (SMALLEST_GROUP << size);
    for (int g = 0; g < GROUPS >> size; ++g) {
      const float *low = s.low[size - 1] + 2 * g, *high = s.high[size - 1] + 2 * g;
      s.low[size][g] = g < groups ? (low[0] < low[1] ? low[0] : low[1]) : 0.0f;
      s.high[size][g] = g < groups ? (high[0] > high[1] ? high[0] : high[1]) : 0.0f;
    }
  }
}

// Fraction of log2(x) by the exponent and a linear mantissa: a monotone bin number, exact everywhere.
INLINE int kurtosis_bin(float ratio) {
  u32 bits = __builtin_bit_cast(u32, ratio);
  int bin = (int)((bits - 0x3F800000u) >> 17); // 64 bins an octave, from a ratio of 1
  return !(ratio >= 1.0f) ? 0 : bin < KURTOSIS_BINS ? bin : KURTOSIS_BINS - 1;
}

static void count_kurtosis(const BlockState &s, int count, double *histogram) {
  for (int g = 0; g + 4 <= count / SMALLEST_GROUP; g += 4) {
    float squares = (s.squares[g] + s.squares[g + 1]) + (s.squares[g + 2] + s.squares[g + 3]);
    float fourths = (s.fourths[g] + s.fourths[g + 1]) + (s.fourths[g + 2] + s.fourths[g + 3]);
    if (squares > 0) histogram[kurtosis_bin(128.0f * fourths / (squares * squares))] += 1;
  }
}

// Weights beyond three times the root mean square of their block.
static double count_outliers(const BlockState &s, int count, double squares) {
  Vec limit = all((float)(9.0 * squares / count));
  Int found = {};
  for (int i = 0; i < count; i += LANES) {
    Vec w = load(s.weights + i);
    found -= w * w > limit;
  }
  int total = 0;
  for (int i = 0; i < LANES; ++i) total += found[i];
  return total;
}

static void count_broken(const BlockState &s, int count, PowerSums &total) {
  for (int i = 0; i < count; ++i) {
    u32 bits = __builtin_bit_cast(u32, s.weights[i]) & 0x7FFFFFFFu;
    total.infinities += bits == 0x7F800000u;
    total.nans += bits > 0x7F800000u;
  }
}

// Fill the parameters of every width for groups of one size. Returns whether any group is so small
// that the floor of the scale turns it into zeros: its bias is then 0 and not its edge.
template <class Type> static bool prepare(BlockState &s, int size, bool against_stored) {
  Int vanishing = {};
  for (int g = 0; g < GROUPS >> size; g += LANES) {
    Vec low = load(s.low[size] + g), high = load(s.high[size] + g);
    Vec edge = magnitude(low) > magnitude(high) ? low : high;
    store(s.edge + g, edge);
    for (int k = 0; k < WIDTHS; ++k) {
      Affine p = minmax_parameters(low, high, levels(BITS[k]));
      Vec stored = Type::round(p.scale);
      vanishing |= p.bias != edge;
      store(s.scale[k] + g, stored);
      Vec divisor = against_stored ? stored : p.scale;
      store(s.divisor[k] + g, divisor);
      store(s.reciprocal[k] + g, all(1.0f) / divisor);
    }
  }
  int any = 0;
  for (int i = 0; i < LANES; ++i) any |= vanishing[i];
  return any;
}

// The nearest code of `x`, not yet bounded above, plus ROUNDING. Ties between two codes are common,
// because weights have few bits, and the two codes differ in error once the scale is rounded. At 2 bits
// they matter least, at 4 and 5 most; above, the error of the scale itself is of that size.
INLINE Vec shifted_code(Vec x, Vec reciprocal, Vec divisor, int bits) {
  if (bits == 2) return fma(x, reciprocal, all(ROUNDING));
  if (bits == 4 || bits == 5) return divide_exactly(x, reciprocal, divisor) + all(ROUNDING);
  return x * reciprocal + all(ROUNDING);
}

template <int FIRST>
static void add_errors(const BlockState &s, int size, int count, double *errors) {
  const int vectors = (SMALLEST_GROUP << size) / LANES, groups = count / (SMALLEST_GROUP << size);
  Vec total[AT_ONCE] = {};
  for (int g = 0; g < groups; ++g) {
    const float *w = s.weights + g * vectors * LANES;
    for (int i = 0; i < vectors; ++i) {
      Vec x = load(w + i * LANES) - all(s.edge[g]);
#pragma clang loop unroll(full)
      for (int k = 0; k < AT_ONCE; ++k) {
        const int width = FIRST + k;
        Vec code = shifted_code(x, all(s.reciprocal[width][g]), all(s.divisor[width][g]), BITS[width]);
        code = minimum(code, all(ROUNDING + levels(BITS[width]))) - all(ROUNDING);
        Vec error = fma(-code, all(s.scale[width][g]), x);
        total[k] = fma(error, error, total[k]);
      }
    }
  }
  for (int k = 0; k < AT_ONCE; ++k) errors[(FIRST + k) * SIZES + size] += sum_lanes(total[k]);
  if constexpr (FIRST + AT_ONCE < WIDTHS) add_errors<FIRST + AT_ONCE>(s, size, count, errors);
}

// The same for a block in which some group vanishes: that group has bias 0 and error w.
template <class Type>
static void add_errors_exactly(const BlockState &s, int size, int count, bool against_stored, double *errors) {
  const int length = SMALLEST_GROUP << size;
  for (int k = 0; k < WIDTHS; ++k)
    for (int g = 0; g < count / length; ++g) {
      Affine p = minmax_parameters(all(s.low[size][g]), all(s.high[size][g]), levels(BITS[k]));
      Vec stored = Type::round(p.scale), total = {};
      for (int i = 0; i < length; i += LANES) {
        Vec w = load(s.weights + g * length + i);
        Vec code = nearest_code(w, against_stored ? stored : p.scale, p.bias, levels(BITS[k]));
        Vec error = fma(-code, stored, w - p.bias);
        total = fma(error, error, total);
      }
      errors[k * SIZES + size] += sum_lanes(total);
    }
}

template <class Type>
static void sweep_block(BlockState &s, const typename Type::Element *from, int count, int sizes,
                        bool against_stored, SweepResult &out) {
  PowerSums block = {};
  read_block<Type>(s, from, count, block);
  double squares = block.squares;
  add(out.sums, block);
  count_kurtosis(s, count, out.kurtosis_histogram);
  if (!(squares < __builtin_inf())) {
    count_broken(s, count, out.sums);
    return;
  }
  out.sums.outliers += count_outliers(s, count, squares);
  merge_groups(s, count);
  for (int size = 0; size < SIZES; ++size) {
    if (!(sizes >> size & 1)) continue;
    if (prepare<Type>(s, size, against_stored))
      add_errors_exactly<Type>(s, size, count, against_stored, out.errors);
    else
      add_errors<0>(s, size, count, out.errors);
  }
}

// The sum of squares of every chunk of a block that `sweep_block` has just read.
static void put_energies(const BlockState &s, int count, double *energies) {
  constexpr int TOGETHER = CHUNK / SMALLEST_GROUP;
  for (int first = 0; first < count / SMALLEST_GROUP; first += TOGETHER) {
    double energy = 0;
    for (int g = first; g < first + TOGETHER && g < count / SMALLEST_GROUP; ++g) energy += (double)s.squares[g];
    energies[first / TOGETHER] = energy;
  }
}

// The largest magnitudes of the groups of a float format.
template <class Format> static void largest_of_groups(const BlockState &s, int count, float *largest) {
  if constexpr (Format::SIZE == SMALLEST_GROUP)
    for (int g = 0; g < GROUPS; g += LANES)
      store(largest + g, maximum(magnitude(load(s.low[0] + g)), magnitude(load(s.high[0] + g))));
  else
    for (int first = 0; first < count; first += LANES * Format::SIZE) {
      Vec rows[LANES];
      for (int row = 0; row < LANES; ++row) {
        int at = first + row * Format::SIZE;
        rows[row] = at < count ? magnitude(load(s.weights + at)) : Vec{};
      }
      store(largest + first / Format::SIZE, reduce_rows<Max>(rows));
    }
}

// The same block in the float modes of the mask; `careful` takes the best of a scale and its neighbours.
static void add_float_errors(const BlockState &s, int count, int modes, bool careful, SweepResult &out) {
  alignas(64) float largest[2 * GROUPS];
  for (int mode = 0; mode < MODES; ++mode) {
    if (!(modes >> mode & 1)) continue;
    with_mode(mode, [&](auto format) {
      using Format = decltype(format);
      largest_of_groups<Format>(s, count, largest);
      const int groups = count / Format::SIZE;
      out.floats[mode] += careful ? float_errors<Format, 1 + Format::NEIGHBOURS>(s.weights, largest, groups)
                                  : float_errors<Format, 1>(s.weights, largest, groups);
    });
  }
}

template <class Type>
static void careful_errors(const typename Type::Element *from, i64 count, int sizes, double (*stored)[FORMATS],
                           double (*careful)[FORMATS]) {
  Columns c;
  for (int size = 0; size < SIZES; ++size) {
    if (!(sizes >> size & 1)) continue;
    const int length = SMALLEST_GROUP << size;
    const i64 groups = count / length;
    for (i64 first = 0; first < groups; first += LANES) {
      int present = groups - first < LANES ? (int)(groups - first) : LANES;
      read_columns<Type>(c, from + first * length, present, length);
      for (int k = 0; k < WIDTHS; ++k) {
        Choice choice = Careful::choose<Type>(c, length, levels(BITS[k]));
        for (int lane = 0; lane < present; ++lane) {
          i64 chunk = (first + lane) * length / CHUNK;
          stored[chunk][k * SIZES + size] += (double)choice.plain_error[lane];
          careful[chunk][k * SIZES + size] += (double)choice.error[lane];
        }
      }
    }
  }
}
