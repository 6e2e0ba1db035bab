// Error feedback: codes of one column make up for the errors of the columns before it, rows for those of
// the rows before them (GPTQ, arXiv 2210.17323; YAQA, arXiv 2505.22988).
#pragma once
#include "grids.h"
#include "panel.h"

constexpr int BLOCK_COLUMNS = 32; // coded together, or a group where that is smaller
constexpr int WIDEST_GROUP = 128;
constexpr int MOST_GROUPS = SPAN / 16; // in a span

// A weight of `width` columns (a multiple of the group) and `rows` rows (of PANEL), column by column.
struct Shape {
  i64 width, rows;
  int bits, group;

  int block() const { return group < BLOCK_COLUMNS ? group : BLOCK_COLUMNS; }
};

// What is found: codes (width, rows), scales and biases (groups, rows), and of two-level formats the D
// (spans, rows) and M of `scale = D c` and `bias = -M m`.
struct Coding {
  u8 *codes;
  float *scales, *biases, *steps, *lows;
};

// Columns that are coded as one: those that share parameters.
template <class Grid> INLINE i64 span_end(const Shape &shape, i64 begin) {
  const i64 end = begin + (Grid::NESTED ? SPAN : shape.group);
  return end < shape.width ? end : shape.width;
}
template <class Grid> INLINE i64 span_number(const Shape &shape, i64 column) {
  return Grid::NESTED ? column / SPAN : column / shape.group;
}

// The grid of sixteen rows in the span that holds a column.
template <class GridOf> INLINE auto grid_at(GridOf grid_of, const Shape &shape, const Coding &to, i64 column, i64 row) {
  using Grid = GridIn<GridOf>;
  if constexpr (Grid::NESTED) {
    const i64 at = column / SPAN * shape.rows + row;
    return grid_of(load(to.steps + at), load(to.lows + at));
  } else
    return grid_of(Vec{}, Vec{});
}

// Scale and bias of a group of thirty-two rows by alternating least squares against the stored, rounded
// values; errors weighted with `importance`, one a column. The best round of each row is kept.
template <class Grid> struct GroupFit {
  static constexpr int ROUNDS = 3;
  static constexpr int FEW_BITS = 4; // cutting off the ends pays more where codes are few
  static constexpr float SHARES[] = {1.0f, 0.96f, 0.92f};
  static constexpr float FEW_BITS_SHARES[] = {1.0f, 0.92f, 0.85f, 0.78f};
  static constexpr float SCALES_AROUND = 3, MINIMA_AROUND = 2; // small integers that are tried on either side

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

  // The scale that suits a zero point: least squares of the values on code - zero point.
  INLINE Vec tied_scale(const Sums &s, Vec mean, Vec low, Vec zero) {
    const Vec products = fma(low, s.codes, s.products) - zero * (mean + low);
    const Vec squares = fma(zero, zero - all(2.0f) * s.codes, s.squares);
    return products / maximum(squares, all(1e-12f));
  }

  // `importance` sums to one. Without `careful` parameters are those of the range alone.
  static void fit(const Grid &grid, const float *x, const float *importance, int size, int bits, bool careful,
                  Vec &best_scale, Vec &best_bias) {
    const float most = (float)((1 << bits) - 1);
    Vec low = load(x), high = low, mean = {};
    for (int i = 1; i < size; ++i) {
      low = minimum(low, load(x + i * PANEL));
      high = maximum(high, load(x + i * PANEL));
    }
    for (int i = 0; i < size; ++i) mean = fma(all(importance[i]), load(x + i * PANEL) - low, mean);
    Vec least = all(__builtin_inff());
    const bool few = bits <= FEW_BITS;
    const int starts = !careful ? 1 : few ? 4 : 3, rounds = careful ? ROUNDS : 0;
    for (int start = 0; start < starts; ++start) {
      const Parameters first = Grid::start(low, high, few ? FEW_BITS_SHARES[start] : SHARES[start], most);
      Vec scale = grid.scale(first.scale), bias = grid.bias(first.bias, scale);
      for (int round = 0; round <= rounds; ++round) {
        Sums s = sums(x, importance, size, most, scale, bias, low);
        Int better = s.error < least;
        least = better ? s.error : least;
        best_scale = better ? scale : best_scale;
        best_bias = better ? bias : best_bias;
        Vec spread = fma(-s.codes, s.codes, s.squares);
        Vec slope = fma(-s.codes, mean, s.products) / maximum(spread, all(1e-12f));
        scale = grid.scale(((spread > Vec{}) & (slope != Vec{})) ? slope : scale);
        bias = grid.bias(low + fma(-scale, s.codes, mean), scale);
        if constexpr (Grid::TIED) {
          const Vec own = grid.scale(tied_scale(s, mean, low, -bias / scale));
          bias = own * (bias / scale);
          scale = own;
        }
      }
    }
    if constexpr (Grid::NESTED)
      if (careful) try_neighbours(grid, x, importance, size, most, low, mean, least, best_scale, best_bias);
  }

  // Small integers around the chosen ones, where they fit better with codes of their own: of the scale, and
  // around the minimum that suits it. Rounded one after the other, both may be the worse for it.
  INLINE void try_neighbours(const Grid &grid, const float *x, const float *importance, int size, float most, Vec low,
                             Vec mean, Vec least, Vec &best_scale, Vec &best_bias) {
    const Vec scale = best_scale, bias = best_bias;
    const auto consider = [&](Vec s, Vec b) {
      const Sums found = sums(x, importance, size, most, s, b, low);
      const Int better = found.error < least;
      least = better ? found.error : least;
      best_scale = better ? s : best_scale;
      best_bias = better ? b : best_bias;
      return low + fma(-s, found.codes, mean);
    };
    for (float off = -SCALES_AROUND; off <= SCALES_AROUND; off += 1) {
      const Vec other = grid.scale(fma(all(off), grid.step, scale));
      const Vec suits = grid.bias(consider(other, bias), other);
      for (float up = -MINIMA_AROUND; up <= MINIMA_AROUND; up += 1)
        consider(other, grid.bias(fma(all(up), grid.low, suits), other));
    }
  }
};

// Set `weights` to shares of the sum of the importances of `size` columns, which is returned. Without
// importances all columns count alike.
INLINE float normalise(const float *importance, i64 first, float *weights, int size) {
  float total = 0;
  for (int i = 0; i < size; ++i) total += importance ? importance[first + i] : 1.0f;
  for (int i = 0; i < size; ++i) weights[i] = (importance ? importance[first + i] : 1.0f) / total;
  return total;
}

// D and M of a span, one of each for sixteen rows: `wanted` are the scales and biases of its groups,
// `weights` what an error in each costs. Of some fractions of the largest scale the one that the scales
// are best rounded to, alike for the biases.
struct SpanFit {
  static constexpr int TRIES = 8;
  static constexpr float STEP = 0.03f;

  INLINE Vec unit(const Vec *wanted, const float *weights, int groups, float least, bool careful) {
    Vec most = {}, best = {}, lowest = all(__builtin_inff());
    for (int g = 0; g < groups; ++g) most = maximum(most, wanted[g]);
    for (int i = 0; i < (careful ? TRIES : 1); ++i) {
      const Vec unit = Bf16::round(most * all((1.0f - STEP * (float)i) / SMALL_MOST));
      Vec error = {};
      for (int g = 0; g < groups; ++g) {
        const Vec small = maximum(TwoLevelGrid::small(wanted[g], unit), all(least));
        const Vec off = fma(-unit, small, wanted[g]);
        error = fma(all(weights[g]) * off, off, error);
      }
      const Int better = error < lowest;
      lowest = better ? error : lowest;
      best = better ? unit : best;
    }
    return best;
  }
};

// D and M of sixteen rows of a span by least squares for given codes: sums over its groups.
struct SpanSums {
  Vec error, squares, cross, depths, products, levels;

  void add(const Parameters &p, const TwoLevelGrid &grid, const GroupFit<TwoLevelGrid>::Sums &s, Vec mean,
                  float share) {
    const Vec c = p.scale / grid.step, m = TwoLevelGrid::small(-p.bias, grid.low);
    error = fma(all(share), s.error, error);
    squares = fma(all(share) * c * c, s.squares, squares);
    cross = fma(all(share) * c * m, s.codes, cross);
    depths = fma(all(share) * m, m, depths);
    products = fma(all(share) * c, s.products, products);
    levels = fma(all(share) * m, mean, levels);
  }
  TwoLevelGrid best(const TwoLevelGrid &now) const {
    const Vec both = squares * depths, determinant = fma(-cross, cross, both);
    const Int regular = determinant > all(1e-6f) * both;
    const Vec wanted = fma(products, depths, -(cross * levels)) / (regular ? determinant : all(1.0f));
    const Vec step = usable_scale<Bf16>((regular & (wanted > Vec{})) ? wanted : now.step);
    const Vec low = Bf16::round(fma(step, cross, -levels) / maximum(depths, all(1e-30f)));
    return {step, depths > Vec{} ? low : now.low};
  }
};

// Choose D and M of a span for the targets that its columns have before any of them is coded: from the best
// scales and biases of its groups, and then by turns with the small integers.
static void fit_span(const Shape &shape, const float *work, const float *importance, Coding to, i64 begin, i64 end,
                     i64 row, bool careful) {
  constexpr int ROUNDS = 3;
  const float most = (float)((1 << shape.bits) - 1);
  alignas(64) float weights[MOST_GROUPS][WIDEST_GROUP];
  float shares[MOST_GROUPS];
  const int groups = (int)(end - begin) / shape.group;
  for (int g = 0; g < groups; ++g) shares[g] = normalise(importance, begin + g * shape.group, weights[g], shape.group);
  for (int h = 0; h < 2; ++h) {
    const float *x = work + begin * PANEL + h * LANES;
    const i64 next = (i64)shape.group * PANEL, at = begin / SPAN * shape.rows + row + h * LANES;
    Vec scales[MOST_GROUPS], depths[MOST_GROUPS], bias;
    for (int g = 0; g < groups; ++g) {
      GroupFit<FreeGrid>::fit({}, x + g * next, weights[g], shape.group, shape.bits, careful, scales[g], bias);
      depths[g] = -bias;
    }
    TwoLevelGrid grid = {usable_scale<Bf16>(SpanFit::unit(scales, shares, groups, 1, careful)),
                         SpanFit::unit(depths, shares, groups, 0, careful)};
    TwoLevelGrid best = grid;
    Vec least = all(__builtin_inff());
    for (int round = 0; round < (careful ? ROUNDS : 0); ++round) {
      SpanSums total = {};
      for (int g = 0; g < groups; ++g) {
        Parameters p;
        GroupFit<TwoLevelGrid>::fit(grid, x + g * next, weights[g], shape.group, shape.bits, true, p.scale, p.bias);
        Vec mean = {};
        for (int i = 0; i < shape.group; ++i) mean = fma(all(weights[g][i]), load(x + g * next + i * PANEL), mean);
        const auto sums = GroupFit<TwoLevelGrid>::sums(x + g * next, weights[g], shape.group, most, p.scale, p.bias, Vec{});
        total.add(p, grid, sums, mean, shares[g]);
      }
      const Int better = total.error < least;
      least = better ? total.error : least;
      best = {better ? grid.step : best.step, better ? grid.low : best.low};
      grid = total.best(grid);
    }
    store(to.steps + at, best.step);
    store(to.lows + at, best.low);
  }
}

// Choose scale and bias of the group of thirty-two rows from `begin`, within D and M of its span.
template <class GridOf>
static void fit_group(GridOf grid_of, const Shape &shape, const float *work, const float *importance, Coding to,
                      i64 begin, i64 row, bool careful) {
  alignas(64) float weights[WIDEST_GROUP];
  normalise(importance, begin, weights, shape.group);
  const i64 at = begin / shape.group * shape.rows + row;
  for (int h = 0; h < 2; ++h) {
    Vec scale, bias;
    GroupFit<GridIn<GridOf>>::fit(grid_at(grid_of, shape, to, begin, row + h * LANES), work + begin * PANEL + h * LANES,
                                  weights, shape.group, shape.bits, careful, scale, bias);
    store(to.scales + at + h * LANES, scale);
    store(to.biases + at + h * LANES, bias);
  }
}

// Code the columns of one group, whose scale and bias are stored, in a panel; see code_panel.
static void code_group(const Shape &shape, float *work, float *errors, const float *pull, Coding to, i64 begin,
                       i64 row) {
  const float most = (float)((1 << shape.bits) - 1);
  const int block = shape.block();
  alignas(64) float codes[BLOCK_COLUMNS * PANEL];
  const i64 at = begin / shape.group * shape.rows + row, end = begin + shape.group;
  const Line scale = line_at(to.scales + at), bias = line_at(to.biases + at);
  const Vec inverse[2] = {all(1.0f) / scale.half[0], all(1.0f) / scale.half[1]};
  for (i64 first = begin; first < end; first += block) {
    const i64 next = first + block;
    for (int j = 0; j < block; ++j) {
      Line error;
      for (int h = 0; h < 2; ++h) {
        Vec value = load(work + (first + j) * PANEL + h * LANES);
        Vec code = clamp_code((value - bias.half[h]) * inverse[h], most);
        store(codes + j * PANEL + h * LANES, code);
        error.half[h] = value - (code * scale.half[h] + bias.half[h]);
        store(errors + (first + j) * PANEL + h * LANES, error.half[h]);
      }
      for (int k = j + 1; k < block; ++k) {
        const Vec link = all(pull[(first + k) * shape.width + first + j]);
        float *later = work + (first + k) * PANEL;
        for (int h = 0; h < 2; ++h) store(later + h * LANES, fma(link, error.half[h], load(later + h * LANES)));
      }
    }
    write_codes(to.codes + first * shape.rows + row, shape.rows, codes, block);
    add_product(work + next * PANEL, pull + next * shape.width + first, shape.width, errors + first * PANEL, PANEL,
                end - next, block);
  }
}

// Code the columns of one panel. `work` holds its targets, in the end what is left of them is of no use;
// `pull` (width, width) says what an error adds to later columns' targets, in row c for column c.
template <class GridOf>
static void code_panel(GridOf grid_of, const Shape &shape, float *work, float *errors, const float *pull,
                       const float *importance, Coding to, i64 row) {
  using Grid = GridIn<GridOf>;
  for (i64 start = 0, end; start < shape.width; start = end) {
    end = span_end<Grid>(shape, start);
    add_product(work + start * PANEL, pull + start * shape.width, shape.width, errors, PANEL, end - start, start);
    if constexpr (Grid::NESTED) fit_span(shape, work, importance, to, start, end, row, true);
    for (i64 begin = start; begin < end; begin += shape.group) {
      float *columns = work + begin * PANEL;
      add_product(columns, pull + begin * shape.width + start, shape.width, errors + start * PANEL, PANEL,
                  shape.group, begin - start);
      fit_group(grid_of, shape, work, importance, to, begin, row, true);
      code_group(shape, work, errors, pull, to, begin, row);
    }
  }
}

// Code a whole weight (width, rows). `links` (rows, rows) says what the difference between a row's target
// and its stored values adds to the targets of rows in later panels, null for nothing; `left` (width, rows) keeps those
// differences. `scratch` has room for two panels.
template <class GridOf>
static void feed_back(GridOf grid_of, const Shape &shape, const float *weight, const float *pull,
                      const float *importance, const float *links, float *left, Coding to, float *scratch) {
  float *target = scratch, *errors = scratch + shape.width * PANEL;
  for (i64 row = 0; row < shape.rows; row += PANEL) {
    copy_lines(target, PANEL, weight + row, shape.rows, shape.width);
    if (links) add_product(target, left, shape.rows, links + row, shape.rows, shape.width, row);
    copy_lines(left + row, shape.rows, target, PANEL, shape.width);
    code_panel(grid_of, shape, target, errors, pull, importance, to, row);
    for (i64 c = 0; c < shape.width; ++c)
      for (int h = 0; h < 2; ++h) {
        const i64 at = c * shape.rows + row + h * LANES, grid = c / shape.group * shape.rows + row + h * LANES;
        Vec code = __builtin_convertvector(load_as<Byte>(to.codes + at), Vec);
        store(left + at, load(left + at) - (code * load(to.scales + grid) + load(to.biases + grid)));
      }
  }
}

// Code a weight (width, rows) by itself: every group and span by the least squared error, or by its range.
// `work` has room for a panel.
template <class GridOf>
static void code_alone(GridOf grid_of, const Shape &shape, const float *weight, Coding to, bool careful, float *work) {
  using Grid = GridIn<GridOf>;
  const float most = (float)((1 << shape.bits) - 1);
  alignas(64) float codes[WIDEST_GROUP * PANEL];
  for (i64 row = 0; row < shape.rows; row += PANEL)
    for (i64 start = 0, end; start < shape.width; start = end) {
      end = span_end<Grid>(shape, start);
      copy_lines(work + start * PANEL, PANEL, weight + start * shape.rows + row, shape.rows, end - start);
      if constexpr (Grid::NESTED) fit_span(shape, work, nullptr, to, start, end, row, careful);
      for (i64 begin = start; begin < end; begin += shape.group) {
        fit_group(grid_of, shape, work, nullptr, to, begin, row, careful);
        const i64 at = begin / shape.group * shape.rows + row;
        const Line scale = line_at(to.scales + at), bias = line_at(to.biases + at);
        for (int c = 0; c < shape.group; ++c)
          for (int h = 0; h < 2; ++h) {
            const Vec value = load(work + (begin + c) * PANEL + h * LANES);
            store(codes + c * PANEL + h * LANES, clamp_code((value - bias.half[h]) / scale.half[h], most));
          }
        write_codes(to.codes + begin * shape.rows + row, shape.rows, codes, shape.group);
      }
    }
}
