// Squared error of all affine formats, with power sums, in one pass over the weights.
//
// Weights go in blocks of 4096 that stay in the first cache. Within a block sums are float32 in
// sixteen lanes, over blocks float64. Codes come from a product with the reciprocal of the scale; at 2
// and 6 bits they may differ from those of a true division on exact ties.
#pragma once
#include "floats.h"

constexpr int BLOCK = 4096;
constexpr int CHUNK = 128; // what `careful` is sampled by: one of the largest groups
constexpr int CHUNKS = BLOCK / CHUNK;
constexpr int SMALLEST_GROUP = 32;
constexpr int SIZES = 3; // group sizes 32, 64 and 128
constexpr int FORMATS = WIDTHS * SIZES;
constexpr int GROUPS = BLOCK / SMALLEST_GROUP;
constexpr int KURTOSIS_BINS = 512;
constexpr int KURTOSIS_BINS_PER_OCTAVE = 64;
constexpr int CACHE_LINE = 64;
constexpr int FEW_BITS = 3; // widths at which groups lose more than their extremes: the first of BITS
constexpr int KNOWN = SIZES * (1 + FEW_BITS); // numbers that a chunk is known by

#if defined(__AVX512F__)
constexpr int AT_ONCE = 6; // formats whose sums live in registers together
#elif defined(__AVX2__)
constexpr int AT_ONCE = 3;
#else
constexpr int AT_ONCE = 6;
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
  double known[KNOWN];                      // of all chunks, see `put_known`
};

// Groups of 32 stand in tiles of sixteen, one to a lane. Parameters are those of the present group size,
// repeated for every group of 32 in a larger one.
struct alignas(64) BlockState {
  Vec weights[BLOCK / LANES];
  float low[SIZES][GROUPS], high[SIZES][GROUPS];
  float squares[GROUPS], fourths[GROUPS];
  float bias[GROUPS], scale[WIDTHS][GROUPS], reciprocal[WIDTHS][GROUPS], rest[WIDTHS][GROUPS];
};

INLINE int tiles_of(int count) { return (count + TILE * LANES - 1) / (TILE * LANES); }

// Ask for bytes of the next block while this one is worked on: by itself the processor does so too late.
INLINE void fetch_ahead(const void *from, int nbytes) {
  for (int at = 0; at < nbytes; at += CACHE_LINE) __builtin_prefetch((const char *)from + at);
}

// Read `count` weights (a multiple of 32) and reduce every group of 32.
template <class Type>
static void read_block(BlockState &s, const typename Type::Element *from, int count, PowerSums &total) {
  Vec sum = {}, squares = {}, cubes = {}, fourths = {}, largest = {};
  for (int first = 0; first < GROUPS; first += LANES) {
    Vec *w = s.weights + first * TILE / LANES, low = {}, high = {}, square = {}, fourth = {};
    if (first * TILE < count) {
      fetch_ahead(from + BLOCK + first * TILE, TILE * LANES * sizeof *from);
      read_tile<Type>(from + first * TILE, TILE, count / TILE - first, w);
      low = high = w[0];
      for (int i = 0; i < TILE; i += 2) {
        Vec a = w[i], b = w[i + 1], a2 = a * a, b2 = b * b;
        low = minimum(low, minimum(a, b));
        high = maximum(high, maximum(a, b));
        square += a2 + b2;
        fourth += fma(a2, a2, b2 * b2);
        sum += a + b;
        cubes += fma(a2, a, b2 * b);
      }
      squares += square;
      fourths += fourth;
      largest = maximum(largest, maximum(magnitude(low), magnitude(high)));
    }
    store(s.low[0] + first, low); // groups past the end are empty
    store(s.high[0] + first, high);
    store(s.squares + first, square);
    store(s.fourths + first, fourth);
  }
  total.count = count;
  total.sum = sum_lanes(sum);
  total.squares = sum_lanes(squares);
  total.cubes = sum_lanes(cubes);
  total.fourths = sum_lanes(fourths);
  for (int i = 0; i < LANES; ++i) total.largest = largest[i] > total.largest ? largest[i] : total.largest;
}

// Join lanes 2i and 2i + 1 of two vectors.
template <class Op> INLINE Vec join_pairs(const float *from) {
  Vec a = load(from), b = load(from + LANES);
  return Op::join(__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                  __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
}

// Extremes of groups of 64 and 128 from those of 32.
INLINE void merge_groups(BlockState &s) {
  for (int size = 1; size < SIZES; ++size)
    for (int g = 0; g < GROUPS >> size; g += LANES) {
      store(s.low[size] + g, join_pairs<Min>(s.low[size - 1] + 2 * g));
      store(s.high[size] + g, join_pairs<Max>(s.high[size - 1] + 2 * g));
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
  for (int i = 0; i < tiles_of(count) * TILE; ++i) found -= s.weights[i] * s.weights[i] > limit;
  int total = 0;
  for (int i = 0; i < LANES; ++i) total += found[i];
  return total;
}

static void count_broken(const BlockState &s, int count, PowerSums &total) {
  for (int i = 0; i < tiles_of(count) * TILE; ++i)
    for (int lane = 0; lane < LANES; ++lane) {
      u32 bits = ((Word)s.weights[i])[lane] & 0x7FFFFFFFu;
      total.infinities += bits == 0x7F800000u;
      total.nans += bits > 0x7F800000u;
    }
}

// Store each lane 2^SIZE times.
template <int SIZE> INLINE void repeat(float *to, Vec v) {
  if constexpr (SIZE == 0)
    store(to, v);
  else {
    repeat<SIZE - 1>(to, __builtin_shufflevector(v, v, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7));
    repeat<SIZE - 1>(to + (LANES << (SIZE - 1)),
                     __builtin_shufflevector(v, v, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15));
  }
}

// Whether codes of this width have to be those of a division on ties, which are common because weights
// have few bits: as the scale is rounded after codes are chosen, two codes of a tie differ in error. At 2
// bits that is less than 1e-6 of the error, at 6 less than 1e-3, at 8 it would be more.
constexpr bool has_rest(int bits) { return bits != 2 && bits != 6; }

// What takes the place of divisions in one pass over all widths: reciprocals of the range and the edge.
struct Inverses {
  Vec range, edge;
};

// minmax_parameters, but for quotients within 2^-45 of the middle between two floats.
INLINE Affine quick_parameters(const Extremes &e, const Inverses &inverse, float steps, Vec &reciprocal) {
  const Vec scale = Extremes::scale(e, steps);
  Vec bounded = minimum(inverse.range * all(steps), all(1.0f / SMALLEST_SCALE));
  Vec inverse_scale = e.below ? bounded : -bounded;
  Vec edge_code = round_even(divide_exactly(e.edge, inverse_scale, scale));
  reciprocal = edge_code == all(0.0f) ? inverse_scale : edge_code * inverse.edge;
  return with_edge_code(e, scale, edge_code);
}

// Fill the parameters of every width for groups of one size. A group so small that the floor of the
// scale turns it into zeros is one at every width: its bias is then 0 and not its edge.
template <class Type, int SIZE> static void prepare(BlockState &s) {
  for (int g = 0; g < GROUPS >> SIZE; g += LANES) {
    const Extremes e = Extremes::of(load(s.low[SIZE] + g), load(s.high[SIZE] + g));
    const Inverses inverse = {all(1.0f) / e.range, all(1.0f) / e.edge};
    const int at = g << SIZE;
    for (int k = 0; k < WIDTHS; ++k) {
      Vec reciprocal;
      Affine p = quick_parameters(e, inverse, levels(BITS[k]), reciprocal);
      reciprocal = fma(fma(-reciprocal, p.scale, all(1.0f)), reciprocal, reciprocal);
      if (has_rest(BITS[k])) repeat<SIZE>(s.rest[k] + at, fma(-reciprocal, p.scale, all(1.0f)) * reciprocal);
      repeat<SIZE>(s.scale[k] + at, Type::round(p.scale));
      repeat<SIZE>(s.reciprocal[k] + at, reciprocal);
      if (k == 0) repeat<SIZE>(s.bias + at, p.bias);
    }
  }
}

// The nearest code of `x`, which is not below zero. `rest` is what the reciprocal lacks: with it the
// quotient is rounded as that of a division.
template <bool HAS_REST> INLINE Part code_of(Part x, Part reciprocal, Part rest, float steps) {
  Part code = round_even(HAS_REST ? fma(x, reciprocal, x * rest) : x * reciprocal);
  return (Part)lesser_bits(code, constant<Part>(steps));
}

template <int FIRST> static void add_errors(const BlockState &s, int size, int count, double *errors) {
  Part total[AT_ONCE][PARTS] = {};
  for (int tile = 0; tile < tiles_of(count); ++tile)
    for (int part = 0; part < PARTS; ++part) {
      const int at = tile * LANES + part * PART;
      const float *w = (const float *)(s.weights + tile * TILE) + part * PART;
      const Part bias = load_as<Part>(s.bias + at);
      Part sum[AT_ONCE], reciprocal[AT_ONCE], rest[AT_ONCE], scale[AT_ONCE];
      for (int k = 0; k < AT_ONCE; ++k) {
        reciprocal[k] = load_as<Part>(s.reciprocal[FIRST + k] + at);
        rest[k] = load_as<Part>(s.rest[FIRST + k] + at);
        scale[k] = load_as<Part>(s.scale[FIRST + k] + at);
        sum[k] = total[k][part];
      }
      for (int i = 0; i < TILE; ++i) {
        Part x = load_as<Part>(w + i * LANES) - bias;
#pragma clang loop unroll(full)
        for (int k = 0; k < AT_ONCE; ++k) {
          const float steps = levels(BITS[FIRST + k]);
          Part code = has_rest(BITS[FIRST + k]) ? code_of<true>(x, reciprocal[k], rest[k], steps)
                                                : code_of<false>(x, reciprocal[k], rest[k], steps);
          Part error = fma(-code, scale[k], x);
          sum[k] = fma(error, error, sum[k]);
        }
      }
      for (int k = 0; k < AT_ONCE; ++k) total[k][part] = sum[k];
    }
  for (int k = 0; k < AT_ONCE; ++k) errors[(FIRST + k) * SIZES + size] += sum_lanes(load_as<Vec>(total[k]));
  if constexpr (FIRST + AT_ONCE < WIDTHS) add_errors<FIRST + AT_ONCE>(s, size, count, errors);
}

template <class Type, int SIZE> static void add_size(BlockState &s, int count, double *errors) {
  prepare<Type, SIZE>(s);
  add_errors<0>(s, SIZE, count, errors);
}

// Read a block and add its power sums; whether all of it is finite, without which nothing else is worth
// knowing.
template <class Type>
static bool begin_block(BlockState &s, const typename Type::Element *from, int count, SweepResult &out) {
  PowerSums block = {};
  read_block<Type>(s, from, count, block);
  double squares = block.squares;
  add(out.sums, block);
  count_kurtosis(s, count, out.kurtosis_histogram);
  if (!(squares < __builtin_inf())) {
    count_broken(s, count, out.sums);
    return false;
  }
  out.sums.outliers += count_outliers(s, count, squares);
  merge_groups(s);
  return true;
}

// The block's errors by minmax in the group sizes of the mask.
template <class Type> static void add_affine_errors(BlockState &s, int count, int sizes, double *errors) {
  if (sizes & 1) add_size<Type, 0>(s, count, errors);
  if (sizes & 2) add_size<Type, 1>(s, count, errors);
  if (sizes & 4) add_size<Type, 2>(s, count, errors);
}

// What the error of `careful` in a group of `length` goes with: half the square of its range, as that of
// many bits does, and at few bits the noise of so many steps as far as it stays below the energy of all
// but the extremes, which is lost at most.
INLINE void known_of_groups(Vec low, Vec high, Vec squares, int length, Vec *known) {
  const Vec range = high - low, spread = all(0.5f) * range * range;
  const Vec inner = maximum(squares - fma(low, low, high * high), all(0.0f));
  known[0] = spread;
  for (int k = 0; k < FEW_BITS; ++k) {
    const float steps = levels(BITS[k]), per_noise = 6.0f * steps * steps / (float)length;
    known[1 + k] = inner * (spread / maximum(fma(inner, all(per_noise), spread), all(__FLT_MIN__)));
  }
}

// Sum neighbours until `count` values have become `wanted`.
INLINE void sum_neighbours(float *values, int count, int wanted) {
  for (; count > wanted; count /= 2)
    for (int at = 0; at < count / 2; at += LANES) store(values + at, join_pairs<Add>(values + 2 * at));
}

// Put what is known of every chunk of a block that was begun into rows of `stride` chunks, one of the spread
// and FEW_BITS of noise for each group size, and add it to `totals`.
static void put_known(const BlockState &s, i64 stride, float *known, Double *totals) {
  alignas(64) float squares[GROUPS], found[1 + FEW_BITS][GROUPS];
  __builtin_memcpy(squares, s.squares, sizeof squares);
  for (int size = 0; size < SIZES; ++size) {
    const int groups = GROUPS >> size;
    for (int g = 0; g < groups; g += LANES) {
      Vec of_groups[1 + FEW_BITS], energy = load(squares + g);
      known_of_groups(load(s.low[size] + g), load(s.high[size] + g), energy, SMALLEST_GROUP << size, of_groups);
      for (int i = 0; i <= FEW_BITS; ++i) store(found[i] + g, of_groups[i]);
    }
    for (int i = 0; i <= FEW_BITS; ++i, known += stride, ++totals) {
      sum_neighbours(found[i], groups, CHUNKS);
      __builtin_memcpy(known, found[i], CHUNKS * sizeof(float));
      for (int at = 0; at < CHUNKS; at += LANES) *totals += __builtin_convertvector(load(found[i] + at), Double);
    }
    sum_neighbours(squares, groups, groups / 2);
  }
}

template <class Format, int CANDIDATES> static double float_errors(const BlockState &s, int count) {
  constexpr int SETS = CANDIDATES > 1 ? 2 : 4; // independent sums in flight
  const int columns = tiles_of(count) * TILE;
  Vec total = {};
  int i = 0;
  for (; i + SETS * Format::SIZE <= columns; i += SETS * Format::SIZE)
    add_best_errors<Format, CANDIDATES, SETS>(s.weights + i, total);
  for (; i < columns; i += Format::SIZE) add_best_errors<Format, CANDIDATES, 1>(s.weights + i, total);
  return sum_lanes(total);
}

// The same block in the float modes of the mask; `careful` takes the best of a scale and its neighbours.
static void add_float_errors(const BlockState &s, int count, int modes, bool careful, SweepResult &out) {
  for (int mode = 0; mode < MODES; ++mode) {
    if (!(modes >> mode & 1)) continue;
    with_mode(mode, [&](auto format) {
      using Format = decltype(format);
      out.floats[mode] +=
          careful ? float_errors<Format, 1 + Format::NEIGHBOURS>(s, count) : float_errors<Format, 1>(s, count);
    });
  }
}

// Add to every CHUNK of `count` weights (a multiple of 32) its errors by `careful`.
template <class Type>
static void careful_errors(const typename Type::Element *from, i64 count, int sizes, double (*errors)[FORMATS]) {
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
        for (int lane = 0; lane < present; ++lane)
          errors[(first + lane) * length / CHUNK][k * SIZES + size] += (double)choice.error[lane];
      }
    }
  }
}
