// Thirty-two rows of a weight side by side: a panel's line c holds what they have in column c.
#pragma once
#include "vector.h"

constexpr int PANEL = 2 * LANES;
// Lines of the result that are kept in registers.
constexpr int TILE_LINES = PART == LANES ? 8 : 2;

struct Line {
  Vec half[2];
};
INLINE Line line_at(const float *from) { return {{load(from), load(from + LANES)}}; }
INLINE void put_line(float *to, Line x) {
  store(to, x.half[0]);
  store(to + LANES, x.half[1]);
}

// to[c] += sum over k of matrix[c][k] * from[k], k in order, for `lines` c (a multiple of TILE_LINES).
// `stride` is the length of the matrix's rows; lines of `to` and of `from` follow each other.
static void add_block(float *to, const float *matrix, i64 stride, const float *from, i64 lines, i64 depth) {
  for (i64 c = 0; c < lines; c += TILE_LINES) {
    const float *rows = matrix + c * stride;
    Line sum[TILE_LINES];
    for (int r = 0; r < TILE_LINES; ++r) sum[r] = line_at(to + (c + r) * PANEL);
    for (i64 k = 0; k < depth; ++k) {
      Line x = line_at(from + k * PANEL);
      for (int r = 0; r < TILE_LINES; ++r) {
        Vec m = all(rows[r * stride + k]);
        for (int h = 0; h < 2; ++h) sum[r].half[h] = fma(m, x.half[h], sum[r].half[h]);
      }
    }
    for (int r = 0; r < TILE_LINES; ++r) put_line(to + (c + r) * PANEL, sum[r]);
  }
}

// The same for lines of `from` that are `step` apart, DEPTH of them at a time, which stay in the nearest cache.
static void add_product(float *to, const float *matrix, i64 stride, const float *from, i64 step, i64 lines, i64 depth) {
  constexpr i64 DEPTH = 256;
  alignas(64) float packed[DEPTH * PANEL];
  for (i64 k = 0; k < depth; k += DEPTH) {
    const i64 count = depth - k < DEPTH ? depth - k : DEPTH;
    const float *lines_of = from + k * step;
    if (step != PANEL) {
      for (i64 i = 0; i < count; ++i) put_line(packed + i * PANEL, line_at(lines_of + i * step));
      lines_of = packed;
    }
    add_block(to, matrix + k, stride, lines_of, lines, count);
  }
}

static void clear(float *to, i64 lines) {
  for (i64 c = 0; c < lines; ++c) put_line(to + c * PANEL, Line{});
}

// Lines of `wide`, a matrix of `step` columns, and back.
INLINE void copy_lines(float *to, i64 to_step, const float *from, i64 from_step, i64 lines) {
  for (i64 c = 0; c < lines; ++c) put_line(to + c * to_step, line_at(from + c * from_step));
}

// Codes as floats, and back.
INLINE void read_codes(float *to, const u8 *from, i64 step, i64 lines) {
  for (i64 c = 0; c < lines; ++c)
    for (int h = 0; h < 2; ++h)
      store(to + c * PANEL + h * LANES, __builtin_convertvector(load_as<Byte>(from + c * step + h * LANES), Vec));
}
INLINE void write_codes(u8 *to, i64 step, const float *from, i64 lines) {
  for (i64 c = 0; c < lines; ++c)
    for (int h = 0; h < 2; ++h) {
      Int code = __builtin_convertvector(load(from + c * PANEL + h * LANES), Int);
      store(to + c * step + h * LANES, __builtin_convertvector(code, Byte));
    }
}
