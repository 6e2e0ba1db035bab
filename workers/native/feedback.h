// Error feedback: codes of one column make up for the errors of the columns before it, rows for those of
// the rows before them (GPTQ, arXiv 2210.17323; YAQA, arXiv 2505.22988).
#pragma once
#include "panel.h"

constexpr int BLOCK_COLUMNS = 32; // the smallest group
constexpr int WIDEST_GROUP = 128;

// A weight of `width` columns (a multiple of the group) and `rows` rows (of PANEL), column by column.
struct Shape {
  i64 width, rows;
  int bits, group;
};

// What is found: codes (width, rows), scales and biases (groups, rows).
struct Coding {
  u8 *codes;
  float *scales, *biases;
};

// Scale and bias of a group of thirty-two rows by alternating least squares against the stored, rounded
// values; errors weighted with `importance`, one a column. The best round of each row is kept.
template <class Type> struct GroupFit {
  static constexpr int ROUNDS = 3;
  static constexpr int FEW_BITS = 4; // cutting off the ends pays more where codes are few
  static constexpr float SHARES[] = {1.0f, 0.96f, 0.92f};
  static constexpr float FEW_BITS_SHARES[] = {1.0f, 0.92f, 0.85f, 0.78f};

  struct Sums {
    Vec error, codes, squares, products;
  };

  // Values are taken relative to `low`, so that sums do not cancel.
  INLINE Sums sums(const float *x, const float *importance, int size, float most, Vec scale, Vec bias, Vec low) {
    Sums s = {};
    const Vec inverse = all(1.0f) / scale;
    for (int i = 0; i < size; ++i) {
      Vec value = load(x + i * PANEL), weight = all(importance[i]);
      Vec code = clamp_code((value - bias) * inverse, most);
      Vec error = fma(code, scale, bias - value), share = weight * code;
      s.error = fma(weight * error, error, s.error);
      s.codes += share;
      s.squares = fma(share, code, s.squares);
      s.products = fma(share, value - low, s.products);
    }
    return s;
  }

  // `importance` sums to one.
  static void fit(const float *x, const float *importance, int size, int bits, Vec &best_scale, Vec &best_bias) {
    const float most = (float)((1 << bits) - 1);
    Vec low = load(x), high = low, mean = {};
    for (int i = 1; i < size; ++i) {
      low = minimum(low, load(x + i * PANEL));
      high = maximum(high, load(x + i * PANEL));
    }
    for (int i = 0; i < size; ++i) mean = fma(all(importance[i]), load(x + i * PANEL) - low, mean);
    Vec least = all(__builtin_inff());
    const bool few = bits <= FEW_BITS;
    for (int start = 0; start < (few ? 4 : 3); ++start) {
      const Vec share = all(few ? FEW_BITS_SHARES[start] : SHARES[start]);
      Vec scale = usable_scale<Type>((high - low) * share / all(most)), bias = Type::round(low * share);
      for (int round = 0; round <= ROUNDS; ++round) {
        Sums s = sums(x, importance, size, most, scale, bias, low);
        Int better = s.error < least;
        least = better ? s.error : least;
        best_scale = better ? scale : best_scale;
        best_bias = better ? bias : best_bias;
        Vec spread = fma(-s.codes, s.codes, s.squares);
        Vec slope = fma(-s.codes, mean, s.products) / maximum(spread, all(1e-12f));
        slope = Type::round(((spread > Vec{}) & (slope != Vec{})) ? slope : scale);
        bias = Type::round(low + fma(-slope, s.codes, mean));
        scale = usable_scale<Type>(slope);
      }
    }
  }
};

// Code the columns of one panel. `work` holds its targets, in the end what is left of them is of no use;
// `pull` (width, width) says what an error adds to later columns' targets, in row c for column c.
template <class Type>
static void code_panel(const Shape &shape, float *work, float *errors, const float *pull, const float *importance,
                       Coding to, i64 row) {
  const float most = (float)((1 << shape.bits) - 1);
  alignas(64) float codes[BLOCK_COLUMNS * PANEL];
  alignas(64) float weights[WIDEST_GROUP];
  for (i64 begin = 0; begin < shape.width; begin += shape.group) {
    float *columns = work + begin * PANEL;
    add_product(columns, pull + begin * shape.width, shape.width, errors, PANEL, shape.group, begin);
    float total = 0;
    for (int i = 0; i < shape.group; ++i) total += importance[begin + i];
    for (int i = 0; i < shape.group; ++i) weights[i] = importance[begin + i] / total;
    Vec scale[2], bias[2], inverse[2];
    const i64 at = begin / shape.group * shape.rows + row;
    for (int h = 0; h < 2; ++h) {
      GroupFit<Type>::fit(columns + h * LANES, weights, shape.group, shape.bits, scale[h], bias[h]);
      store(to.scales + at + h * LANES, scale[h]);
      store(to.biases + at + h * LANES, bias[h]);
      inverse[h] = all(1.0f) / scale[h];
    }
    for (i64 first = begin; first < begin + shape.group; first += BLOCK_COLUMNS) {
      const i64 next = first + BLOCK_COLUMNS;
      for (int j = 0; j < BLOCK_COLUMNS; ++j) {
        Line error;
        for (int h = 0; h < 2; ++h) {
          Vec value = load(work + (first + j) * PANEL + h * LANES);
          Vec code = clamp_code((value - bias[h]) * inverse[h], most);
          store(codes + j * PANEL + h * LANES, code);
          error.half[h] = value - (code * scale[h] + bias[h]);
          store(errors + (first + j) * PANEL + h * LANES, error.half[h]);
        }
        for (int k = j + 1; k < BLOCK_COLUMNS; ++k) {
          const Vec link = all(pull[(first + k) * shape.width + first + j]);
          float *later = work + (first + k) * PANEL;
          for (int h = 0; h < 2; ++h) store(later + h * LANES, fma(link, error.half[h], load(later + h * LANES)));
        }
      }
      write_codes(to.codes + first * shape.rows + row, shape.rows, codes, BLOCK_COLUMNS);
      add_product(work + next * PANEL, pull + next * shape.width + first, shape.width, errors + first * PANEL, PANEL,
                  begin + shape.group - next, BLOCK_COLUMNS);
    }
  }
}

// Code a whole weight (width, rows). `links` (rows, rows) says what the difference between a row's target
// and its stored values adds to the targets of rows in later panels, null for nothing; `left` (width, rows) keeps those
// differences. `scratch` has room for two panels.
template <class Type>
static void feed_back(const Shape &shape, const float *weight, const float *pull, const float *importance,
                      const float *links, float *left, Coding to, float *scratch) {
  float *target = scratch, *errors = scratch + shape.width * PANEL;
  for (i64 row = 0; row < shape.rows; row += PANEL) {
    copy_lines(target, PANEL, weight + row, shape.rows, shape.width);
    if (links) add_product(target, left, shape.rows, links + row, shape.rows, shape.width, row);
    copy_lines(left + row, shape.rows, target, PANEL, shape.width);
    code_panel<Type>(shape, target, errors, pull, importance, to, row);
    for (i64 c = 0; c < shape.width; ++c)
      for (int h = 0; h < 2; ++h) {
        const i64 at = c * shape.rows + row + h * LANES, grid = c / shape.group * shape.rows + row + h * LANES;
        Vec code = __builtin_convertvector(load_as<Byte>(to.codes + at), Vec);
        store(left + at, load(left + at) - (code * load(to.scales + grid) + load(to.biases + grid)));
      }
  }
}
