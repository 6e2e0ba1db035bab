// Blocks of a float32 matrix as bfloat16 tiles of the AMX unit, in two terms: x = high + low + error, where high is
// x rounded to bfloat16, low the rest rounded, and |error| <= 2^-17 |x|. Products of two such matrices leave out
// low * low alone, so each is exact to about 2^-16 of its size (measured over a sum: 4e-6, where float32 has 3e-7).
#pragma once
#define __MM_MALLOC_H  // the intrinsics' own allocation, which wants the C library's headers
#include <immintrin.h>

using u16 = unsigned short;
using i64 = long long;

#define AMX_CODE __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

constexpr int TILE = 16;         // lines of a tile, and float32 columns of its product
constexpr int DEPTH = 2 * TILE;  // terms of a sum that one tile holds
constexpr int BLOCK = 2 * TILE;  // rows and columns of the result that stay in the unit
constexpr int AHEAD = 8 * DEPTH;  // floats of a line that are fetched before they are needed
constexpr i64 TILE_SIZE = TILE * DEPTH;
constexpr i64 STEP_SIZE = 4 * TILE_SIZE;  // a block's two tiles, each in two terms, for one step through the depth

static inline i64 least(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 most(i64 a, i64 b) { return a > b ? a : b; }
static inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

// A matrix as a product sees it: `at` is its first element, lines are its rows on the left of a product and its
// columns on the right of it, and depth is what the product sums over.
struct Operand {
  const float *at;
  i64 line_step, depth_step;  // one of the two is 1

  const float *element(i64 line, i64 depth) const { return at + line * line_step + depth * depth_step; }
};

struct Terms {
  __m512i high, low;
};

// 32 values as bfloat16: those of `first`, then those of `second`.
static AMX_CODE inline Terms terms_of(__m512 first, __m512 second) {
  const __m512i high = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  const __m512i low_half = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(high)), 16);
  const __m512i high_half = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(high, 1)), 16);
  const __m512 rest_of_first = _mm512_sub_ps(first, _mm512_castsi512_ps(low_half));
  const __m512 rest_of_second = _mm512_sub_ps(second, _mm512_castsi512_ps(high_half));
  return {high, (__m512i)_mm512_cvtne2ps_pbh(rest_of_second, rest_of_first)};
}

// Transpose 16 x 16 elements of 32 bits, four rows at a time and then all of them; `row` is used up.
static AMX_CODE inline void transpose(__m512i to[TILE], __m512i row[TILE]) {
#pragma unroll
  for (int i = 0; i < TILE; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(row[i], row[i + 1]), b = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(row[i + 2], row[i + 3]), d = _mm512_unpackhi_epi32(row[i + 2], row[i + 3]);
    row[i] = _mm512_unpacklo_epi64(a, c), row[i + 1] = _mm512_unpackhi_epi64(a, c);
    row[i + 2] = _mm512_unpacklo_epi64(b, d), row[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const __m512i even = _mm512_shuffle_i32x4(row[c], row[4 + c], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(row[c], row[4 + c], 0xdd);
    const __m512i later_even = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0x88);
    const __m512i later_odd = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0xdd);
    to[c] = _mm512_shuffle_i32x4(even, later_even, 0x88);
    to[4 + c] = _mm512_shuffle_i32x4(odd, later_odd, 0x88);
    to[8 + c] = _mm512_shuffle_i32x4(even, later_even, 0xdd);
    to[12 + c] = _mm512_shuffle_i32x4(odd, later_odd, 0xdd);
  }
}

static inline unsigned short first_bits(i64 count) {
  return count >= TILE ? 0xffff : count <= 0 ? 0 : (unsigned short)((1u << count) - 1);
}

// Write the tile of `high` and after it that of `low`: 16 lines and 32 of the depth from `line` and `depth` on, zero
// from `lines` and `depths` on. A left operand's tile has a row for each line; a right operand's has a row for each two
// of the depth, in which every line has its two side by side.
static AMX_CODE void write_tile(u16 *to, Operand from, bool right, i64 line, i64 lines, i64 depth, i64 depths) {
  alignas(64) __m512i high[TILE], low[TILE];
  __m512i *const tile = (__m512i *)to;
  const bool as_it_lies = (from.depth_step == 1) != right;
  __m512i *const first_tile = as_it_lies ? tile : high, *const second_tile = as_it_lies ? tile + TILE : low;
  if (from.depth_step == 1) {
    const __mmask16 first = first_bits(depths - depth), second = first_bits(depths - depth - TILE);
    for (int i = 0; i < TILE; ++i) {
      const bool inside = line + i < lines;
      const float *at = from.element(inside ? line + i : 0, depth);
      _mm_prefetch((const char *)(at + AHEAD), _MM_HINT_T0);
      _mm_prefetch((const char *)(at + AHEAD + TILE), _MM_HINT_T0);
      const Terms terms = terms_of(_mm512_maskz_loadu_ps(inside ? first : 0, at),
                                   _mm512_maskz_loadu_ps(inside ? second : 0, at + TILE));
      first_tile[i] = terms.high, second_tile[i] = terms.low;
    }
  } else {
    const __mmask16 inside = first_bits(lines - line);
    const __m512i side_by_side = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                                  22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int p = 0; p < TILE; ++p) {
      const i64 d = depth + 2 * p;
      const Terms terms = terms_of(_mm512_maskz_loadu_ps(d < depths ? inside : 0, from.element(line, d)),
                                   _mm512_maskz_loadu_ps(d + 1 < depths ? inside : 0, from.element(line, d + 1)));
      first_tile[p] = _mm512_permutexvar_epi16(side_by_side, terms.high);
      second_tile[p] = _mm512_permutexvar_epi16(side_by_side, terms.low);
    }
  }
  if (!as_it_lies) transpose(tile, high), transpose(tile + TILE, low);
}

// Write blocks of 32 lines one after another, each for `steps` steps of the depth from `depth` on. The operand is read
// in the order in which it lies in memory.
static AMX_CODE void write_blocks(u16 *to, Operand from, bool right, i64 line, i64 end, i64 depth, i64 steps,
                                  i64 depths) {
  const i64 blocks = ceil_div(end - line, BLOCK);
  const bool by_block = from.depth_step == 1;
  for (i64 i = 0; i < (by_block ? blocks : steps); ++i)
    for (i64 j = 0; j < (by_block ? steps : blocks); ++j)
      for (int half = 0; half < 2; ++half) {
        const i64 block = by_block ? i : j, step = by_block ? j : i;
        write_tile(to + (block * steps + step) * STEP_SIZE + half * 2 * TILE_SIZE, from, right,
                   line + block * BLOCK + half * TILE, end, depth + step * DEPTH, depths);
      }
}

struct alignas(64) TileShapes {
  unsigned char palette = 1, start_row = 0, reserved[14] = {};
  u16 row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// 32 x 32 of the result, of rows `stride` floats apart: = or, with `add`, += left * right over `steps` steps.
static AMX_CODE void multiply_block(float *to, i64 stride, const u16 *left, const u16 *right, i64 steps, bool add) {
  const i64 bytes = stride * 4;
  float *below = to + TILE * stride;
  if (add) {
    _tile_loadd(0, to, bytes), _tile_loadd(1, to + TILE, bytes);
    _tile_loadd(2, below, bytes), _tile_loadd(3, below + TILE, bytes);
  } else {
    _tile_zero(0), _tile_zero(1), _tile_zero(2), _tile_zero(3);
  }
#define ADD_PRODUCTS_OF_4_5_WITH_6_7 \
  _tile_dpbf16ps(0, 4, 6), _tile_dpbf16ps(1, 4, 7), _tile_dpbf16ps(2, 5, 6), _tile_dpbf16ps(3, 5, 7)
  for (; steps > 0; --steps, left += STEP_SIZE, right += STEP_SIZE) {
    _tile_loadd(4, left, 64), _tile_loadd(5, left + 2 * TILE_SIZE, 64);  // high
    _tile_loadd(6, right + TILE_SIZE, 64), _tile_loadd(7, right + 3 * TILE_SIZE, 64);  // low
    ADD_PRODUCTS_OF_4_5_WITH_6_7;
    _tile_loadd(6, right, 64), _tile_loadd(7, right + 2 * TILE_SIZE, 64);  // high
    ADD_PRODUCTS_OF_4_5_WITH_6_7;
    _tile_loadd(4, left + TILE_SIZE, 64), _tile_loadd(5, left + 3 * TILE_SIZE, 64);  // low
    ADD_PRODUCTS_OF_4_5_WITH_6_7;
  }
#undef ADD_PRODUCTS_OF_4_5_WITH_6_7
  _tile_stored(0, to, bytes), _tile_stored(1, to + TILE, bytes);
  _tile_stored(2, below, bytes), _tile_stored(3, below + TILE, bytes);
}
