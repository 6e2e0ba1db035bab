// Coordinate descent on codes, scales and biases after error feedback, against a sum of tr(B E A E^T)
// (QuantEase, arXiv 2309.01885; two-sided as in YAQA, arXiv 2505.22988). Each code in turn becomes the
// best one given every other error; scale and bias are refitted whenever a sweep enters their group. Only
// what lowers the objective is taken.
#pragma once
#include "feedback.h"

constexpr int MOST_TERMS = 2;
constexpr int WIDEST_STEP = SPAN; // columns that change together

// A (width, width); B (rows, rows), null where only its diagonal (rows) counts.
struct Term {
  const float *columns, *rows, *diagonal;
};

struct Terms {
  Term of[MOST_TERMS];
  int count;
  bool coupled; // rows meet in some term
};

// One panel of a sweep. Lines of `gradient` are up to date from where a sweep is to the end of its
// group; those beyond lack the effect of what was taken, which `taken` keeps for each term with B applied.
template <class GridOf> struct Sweep {
  using Grid = GridIn<GridOf>;
  GridOf grid_of;
  const Shape &shape;
  const Terms &terms;
  i64 row;
  float *error, *gradient, *taken[MOST_TERMS], *spare;
  Coding to;

  Line diagonal(int t) const { return line_at(terms.of[t].diagonal + row); }

  // to[c] += from[c] with B of this panel applied.
  void add_coupled(int t, float *to_lines, const float *from, i64 lines) const {
    if (terms.of[t].rows) {
      add_product(to_lines, from, PANEL, terms.of[t].rows + row * shape.rows + row, shape.rows, lines, PANEL);
      return;
    }
    const Line d = diagonal(t);
    for (i64 c = 0; c < lines; ++c)
      for (int h = 0; h < 2; ++h) {
        float *at = to_lines + c * PANEL + h * LANES;
        store(at, fma(load(from + c * PANEL + h * LANES), d.half[h], load(at)));
      }
  }

  // Half the change of the gradient of `size` columns from `first` by a step of them.
  void half_change(float *change, const float *step, i64 first, int size) const {
    alignas(64) float product[WIDEST_STEP * PANEL];
    clear(change, size);
    for (int t = 0; t < terms.count; ++t) {
      clear(product, size);
      add_product(product, terms.of[t].columns + first * shape.width + first, shape.width, step, PANEL, size, size);
      add_coupled(t, change, product, size);
    }
    for (i64 i = 0; i < size * PANEL; i += LANES) store(change + i, load(change + i) * all(0.5f));
  }

  // Set to zero the rows of `step` that are not to be taken, so that the objective falls: those whose
  // share of the joint change is not negative, and all if the others do not lower it together.
  Line accept(float *step, i64 first, int size) const {
    alignas(64) float change[WIDEST_STEP * PANEL];
    Line keep = {{all(1.0f), all(1.0f)}};
    for (int round = 0; round < (terms.coupled ? 2 : 1); ++round) {
      half_change(change, step, first, size);
      double total = 0;
      for (int h = 0; h < 2; ++h) {
        Vec share = {};
        for (int c = 0; c < size; ++c) {
          const i64 at = c * PANEL + h * LANES;
          share = fma(load(step + at), load(gradient + first * PANEL + at) + load(change + at), share);
        }
        if (round == 0) keep.half[h] = share < Vec{} ? all(1.0f) : Vec{};
        total += sum_lanes(share);
      }
      if (round == 1 && !(total < 0)) keep = Line{};
      for (int c = 0; c < size; ++c)
        for (int h = 0; h < 2; ++h) {
          float *at = step + c * PANEL + h * LANES;
          store(at, keep.half[h] > Vec{} ? load(at) : Vec{});
        }
    }
    return keep;
  }

  // Add a step of `size` columns from `first` to the errors, and to the gradient of columns from `since`
  // to `end`.
  void take(const float *step, i64 first, int size, i64 since, i64 end) const {
    alignas(64) float coupled[WIDEST_STEP * PANEL];
    for (int c = 0; c < size; ++c)
      for (int h = 0; h < 2; ++h) {
        float *at = error + (first + c) * shape.rows + row + h * LANES;
        store(at, load(at) + load(step + c * PANEL + h * LANES));
      }
    for (int t = 0; t < terms.count; ++t) {
      clear(coupled, size);
      add_coupled(t, coupled, step, size);
      float *kept = taken[t] + first * PANEL;
      for (i64 i = 0; i < size * PANEL; i += LANES) store(kept + i, load(kept + i) + load(coupled + i));
      add_product(gradient + since * PANEL, terms.of[t].columns + since * shape.width + first, shape.width, coupled,
                  PANEL, end - since, size);
    }
  }

  // The scale whose weights are nearest to the optimum where bias = -scale * zero.
  INLINE Vec tied_scale(Vec squares, Vec sums, Vec ones, Vec slope, Vec level, const Parameters &now, Vec zero) {
    const Vec with_codes = fma(-zero, sums, squares), with_ones = fma(-zero, ones, sums);
    const Vec bend = fma(-zero, with_ones, with_codes);
    const Vec pull = fma(now.scale, with_codes, now.bias * with_ones) - fma(-zero, level, slope);
    return bend > Vec{} ? pull / maximum(bend, all(1e-37f)) : now.scale;
  }

  // Least squares for D and M of the span from `begin` to `end`, given everything else: two directions,
  // c q and -m. D is rounded first; M then answers to the rounded D.
  void refit_span(i64 begin, i64 end) const {
    alignas(64) float along[2][WIDEST_STEP * PANEL], product[WIDEST_STEP * PANEL], step[WIDEST_STEP * PANEL];
    const int size = (int)(end - begin);
    const i64 at = begin / SPAN * shape.rows + row;
    const Line d = line_at(to.steps + at), m = line_at(to.lows + at);
    read_codes(along[0], to.codes + begin * shape.rows + row, shape.rows, size);
    for (int c = 0; c < size; ++c)
      for (int h = 0; h < 2; ++h) {
        const i64 grid = (begin + c) / shape.group * shape.rows + row + h * LANES, line = c * PANEL + h * LANES;
        const Vec low = m.half[h];
        store(along[0] + line, load(along[0] + line) * (load(to.scales + grid) / d.half[h]));
        store(along[1] + line, low == Vec{} ? Vec{} : load(to.biases + grid) / (low == Vec{} ? all(1.0f) : low));
      }
    Line bends[3] = {}, slopes[2] = {}; // c q with itself, with -m, -m with itself
    for (int t = 0; t < terms.count; ++t) {
      const Line own = diagonal(t);
      for (int which = 0; which < 2; ++which) {
        clear(product, size);
        add_product(product, terms.of[t].columns + begin * shape.width + begin, shape.width, along[which], PANEL, size,
                    size);
        for (int other = which; other < 2; ++other)
          for (int h = 0; h < 2; ++h) {
            Vec sum = {};
            for (int c = 0; c < size; ++c)
              sum = fma(load(along[other] + c * PANEL + h * LANES), load(product + c * PANEL + h * LANES), sum);
            bends[which + other].half[h] = fma(own.half[h], sum, bends[which + other].half[h]);
          }
      }
    }
    for (int c = 0; c < size; ++c)
      for (int which = 0; which < 2; ++which)
        for (int h = 0; h < 2; ++h) {
          const Vec g = load(gradient + (begin + c) * PANEL + h * LANES);
          slopes[which].half[h] = fma(load(along[which] + c * PANEL + h * LANES), g, slopes[which].half[h]);
        }
    Line steps, lows;
    for (int h = 0; h < 2; ++h) {
      const Vec both = bends[0].half[h] * bends[2].half[h];
      const Vec determinant = fma(-bends[1].half[h], bends[1].half[h], both);
      const Int regular = determinant > all(1e-6f) * both;
      const Vec change = fma(bends[1].half[h], slopes[1].half[h], -(bends[2].half[h] * slopes[0].half[h])) /
                         (regular ? determinant : all(1.0f));
      const Vec wanted = Bf16::round(d.half[h] + (regular ? change : Vec{}));
      steps.half[h] = wanted > all(LEAST_SCALE) ? wanted : d.half[h];
      const Vec moved = steps.half[h] - d.half[h];
      const Vec shift = fma(bends[1].half[h], moved, slopes[1].half[h]) / maximum(bends[2].half[h], all(1e-30f));
      lows.half[h] = bends[2].half[h] > Vec{} ? Bf16::round(m.half[h] - shift) : m.half[h];
      for (int c = 0; c < size; ++c) {
        const i64 line = c * PANEL + h * LANES;
        store(step + line,
              fma(moved, load(along[0] + line), (lows.half[h] - m.half[h]) * load(along[1] + line)));
      }
    }
    const Line keep = accept(step, begin, size);
    for (int h = 0; h < 2; ++h) {
      const Int kept = keep.half[h] > Vec{};
      const Vec low = m.half[h];
      for (i64 g = begin / shape.group; g < end / shape.group; ++g) {
        float *scale = to.scales + g * shape.rows + row + h * LANES, *bias = to.biases + g * shape.rows + row + h * LANES;
        const Vec c = round_even(load(scale) / d.half[h]);
        const Vec small = low == Vec{} ? Vec{} : round_even(load(bias) / (low == Vec{} ? all(1.0f) : low));
        store(scale, kept ? c * steps.half[h] : load(scale));
        store(bias, kept ? small * lows.half[h] : load(bias));
      }
      store(to.steps + at + h * LANES, kept ? steps.half[h] : d.half[h]);
      store(to.lows + at + h * LANES, kept ? lows.half[h] : m.half[h]);
    }
    take(step, begin, size, begin, end);
  }

  // Least squares for scale and bias, given the codes and every other error: q^T A q, q^T A 1 and 1^T A 1
  // are the normal equations. The scale is rounded first; the bias then answers to the rounded scale.
  // Gradients are kept up to date as far as `end`.
  void refit(const float *codes, i64 begin, i64 end) const {
    alignas(64) float product[WIDEST_GROUP * PANEL], step[WIDEST_GROUP * PANEL];
    const int size = shape.group;
    Line squares = {}, sums = {}, ones = {};
    for (int t = 0; t < terms.count; ++t) {
      const float *inner = terms.of[t].columns + begin * shape.width + begin;
      const Line d = diagonal(t);
      Vec parts = {};
      for (int i = 0; i < size; ++i)
        for (int j = 0; j < size; j += LANES) parts += load(inner + i * shape.width + j);
      const float total = (float)sum_lanes(parts);
      clear(product, size);
      add_product(product, inner, shape.width, codes, PANEL, size, size);
      for (int h = 0; h < 2; ++h) {
        Vec square = {}, sum = {};
        for (int c = 0; c < size; ++c) {
          Vec image = load(product + c * PANEL + h * LANES);
          square = fma(load(codes + c * PANEL + h * LANES), image, square);
          sum += image;
        }
        squares.half[h] = fma(d.half[h], square, squares.half[h]);
        sums.half[h] = fma(d.half[h], sum, sums.half[h]);
        ones.half[h] = fma(d.half[h], all(total), ones.half[h]);
      }
    }
    const i64 grid = begin / shape.group * shape.rows + row;
    Line scales, biases;
    for (int h = 0; h < 2; ++h) {
      Vec slope = {}, level = {};
      for (int c = 0; c < size; ++c) {
        Vec g = load(gradient + (begin + c) * PANEL + h * LANES);
        slope = fma(load(codes + c * PANEL + h * LANES), g, slope);
        level += g;
      }
      const Vec scale = load(to.scales + grid + h * LANES), bias = load(to.biases + grid + h * LANES);
      const Vec both = squares.half[h] * ones.half[h];
      const Vec determinant = fma(-sums.half[h], sums.half[h], both);
      const Int regular = determinant > all(1e-6f) * both; // else the codes are as good as constant
      Vec change = fma(sums.half[h], level, -(ones.half[h] * slope)) / (regular ? determinant : all(1.0f));
      const auto stored = grid_at(grid_of, shape, to, begin, row + h * LANES);
      Vec new_scale = stored.scale(scale + (regular ? change : Vec{}));
      const Vec shift = fma(sums.half[h], new_scale - scale, level) / maximum(ones.half[h], all(1e-30f));
      Vec new_bias = stored.bias(bias - shift, new_scale);
      if constexpr (Grid::TIED) {
        const Vec zero = -new_bias / new_scale;
        new_scale = stored.scale(
            tied_scale(squares.half[h], sums.half[h], ones.half[h], slope, level, {scale, bias}, zero));
        new_bias = stored.bias(-(zero * new_scale), new_scale);
      }
      for (int c = 0; c < size; ++c) {
        const i64 at = c * PANEL + h * LANES;
        store(step + at, fma(new_scale - scale, load(codes + at), new_bias - bias));
      }
      scales.half[h] = new_scale;
      biases.half[h] = new_bias;
    }
    const Line keep = accept(step, begin, size);
    for (int h = 0; h < 2; ++h) {
      const i64 at = grid + h * LANES;
      const Int kept = keep.half[h] > Vec{};
      store(to.scales + at, kept ? scales.half[h] : load(to.scales + at));
      store(to.biases + at, kept ? biases.half[h] : load(to.biases + at));
    }
    take(step, begin, size, begin, end);
  }

  // The best code of each of these columns given every other error, each row by itself.
  void propose(float *codes, float *step, i64 first, int block) const {
    alignas(64) float moved[BLOCK_COLUMNS * PANEL];
    const i64 grid = first / shape.group * shape.rows + row;
    const float most = (float)((1 << shape.bits) - 1);
    copy_lines(moved, PANEL, gradient + first * PANEL, PANEL, block);
    for (int h = 0; h < 2; ++h) {
      const Vec scale = load(to.scales + grid + h * LANES), inverse = all(1.0f) / scale;
      for (int j = 0; j < block; ++j) {
        const i64 at = j * PANEL + h * LANES;
        Vec bend = {};
        for (int t = 0; t < terms.count; ++t)
          bend = fma(all(terms.of[t].columns[(first + j) * (shape.width + 1)]), diagonal(t).half[h], bend);
        const Vec reach = bend > Vec{} ? inverse / maximum(bend, all(1e-37f)) : Vec{};
        const Vec code = load(codes + at), best = clamp_code(fma(-load(moved + at), reach, code), most);
        const Vec change = (best - code) * scale;
        store(codes + at, best);
        store(step + at, change);
        for (int t = 0; t < terms.count; ++t) {
          const Vec weighed = change * diagonal(t).half[h];
          const float *links = terms.of[t].columns + (first + j) * shape.width + first;
          for (int k = j + 1; k < block; ++k) {
            float *later = moved + k * PANEL + h * LANES;
            store(later, fma(all(links[k]), weighed, load(later)));
          }
        }
      }
    }
  }

  // The gradient (B E A)^T of this panel for the whole error.
  void start() const {
    clear(gradient, shape.width);
    for (int t = 0; t < terms.count; ++t) {
      clear(spare, shape.width);
      if (terms.of[t].rows)
        add_product(spare, error, shape.rows, terms.of[t].rows + row, shape.rows, shape.width, shape.rows);
      else
        for (i64 c = 0; c < shape.width; ++c)
          for (int h = 0; h < 2; ++h)
            store(spare + c * PANEL + h * LANES, load(error + c * shape.rows + row + h * LANES) * diagonal(t).half[h]);
      add_product(gradient, terms.of[t].columns, shape.width, spare, PANEL, shape.width, shape.width);
      clear(taken[t], shape.width);
    }
  }

  // Sweep the columns of the group from `begin`; gradients are kept up to date as far as `end`.
  void sweep_group(i64 begin, i64 end) const {
    alignas(64) float codes[WIDEST_GROUP * PANEL], chosen[BLOCK_COLUMNS * PANEL], step[BLOCK_COLUMNS * PANEL];
    const int block = shape.block();
    read_codes(codes, to.codes + begin * shape.rows + row, shape.rows, shape.group);
    refit(codes, begin, end);
    for (i64 first = begin; first < begin + shape.group; first += block) {
      float *before = codes + (first - begin) * PANEL;
      copy_lines(chosen, PANEL, before, PANEL, block);
      propose(chosen, step, first, block);
      const Line keep = accept(step, first, block);
      for (int c = 0; c < block; ++c)
        for (int h = 0; h < 2; ++h) {
          const i64 at = c * PANEL + h * LANES;
          store(before + at, keep.half[h] > Vec{} ? load(chosen + at) : load(before + at));
        }
      write_codes(to.codes + first * shape.rows + row, shape.rows, before, block);
      take(step, first, block, first + block, end);
    }
  }

  void run() const {
    start();
    for (i64 begin = 0, end; begin < shape.width; begin = end) {
      end = span_end<Grid>(shape, begin);
      for (int t = 0; t < terms.count; ++t)
        add_product(gradient + begin * PANEL, terms.of[t].columns + begin * shape.width, shape.width, taken[t], PANEL,
                    end - begin, begin);
      if constexpr (Grid::NESTED) refit_span(begin, end);
      for (i64 group = begin; group < end; group += shape.group) sweep_group(group, end);
    }
  }
};

// Sweep a whole weight `sweeps` times. `error` (width, rows) is that of `to`; `scratch` has room for four
// panels.
template <class GridOf>
static void descend(GridOf grid_of, const Shape &shape, const Terms &terms, float *error, Coding to, int sweeps,
                    float *scratch) {
  const i64 panel = shape.width * PANEL;
  for (int sweep = 0; sweep < sweeps; ++sweep)
    for (i64 row = 0; row < shape.rows; row += PANEL)
      Sweep<GridOf>{grid_of, shape, terms, row, error, scratch, {scratch + panel, scratch + 2 * panel},
                    scratch + 3 * panel, to}
          .run();
}
