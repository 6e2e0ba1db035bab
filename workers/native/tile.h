// Sixteen groups side by side: lane j of a column belongs to group j.
#pragma once
#include "vector.h"

constexpr int TILE = 32; // weights of each group in a tile

template <int... LANES_OF_BOTH> INLINE Word shuffle(Word a, Word b) {
  return __builtin_shufflevector(a, b, LANES_OF_BOTH...);
}

// The sixteen columns of the matrix that sixteen rows make: four by four words, then whole quarters.
INLINE void transpose(const Word *rows, Word *columns) {
  Word quads[4][4];
  for (int q = 0; q < 4; ++q) {
    const Word *r = rows + 4 * q;
    Word ab_low = shuffle<0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29>(r[0], r[1]);
    Word ab_high = shuffle<2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31>(r[0], r[1]);
    Word cd_low = shuffle<0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29>(r[2], r[3]);
    Word cd_high = shuffle<2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31>(r[2], r[3]);
    quads[q][0] = shuffle<0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29>(ab_low, cd_low);
    quads[q][1] = shuffle<2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31>(ab_low, cd_low);
    quads[q][2] = shuffle<0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29>(ab_high, cd_high);
    quads[q][3] = shuffle<2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31>(ab_high, cd_high);
  }
  for (int c = 0; c < 4; ++c)
    for (int half = 0; half < 2; ++half) {
      Word halves[2];
      for (int q = 0; q < 2; ++q) {
        Word a = quads[2 * q][c], b = quads[2 * q + 1][c];
        halves[q] = half ? shuffle<8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31>(a, b)
                         : shuffle<0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23>(a, b);
      }
      columns[8 * half + c] =
          shuffle<0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27>(halves[0], halves[1]);
      columns[8 * half + 4 + c] =
          shuffle<4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31>(halves[0], halves[1]);
    }
}

// Columns of 32 weights of `groups` groups that begin `stride` weights apart; lanes without one are 0.
template <class Type>
INLINE void read_tile(const typename Type::Element *from, i64 stride, int groups, Vec *columns) {
  constexpr int PER_WORD = 4 / sizeof(*from);
  for (int first = 0; first < TILE; first += LANES * PER_WORD) {
    Word rows[LANES], words[LANES];
    if (groups >= LANES)
      for (int lane = 0; lane < LANES; ++lane) rows[lane] = load_as<Word>(from + lane * stride + first);
    else
      for (int lane = 0; lane < LANES; ++lane)
        rows[lane] = lane < groups ? load_as<Word>(from + lane * stride + first) : Word{};
    transpose(rows, words);
    for (int i = 0; i < LANES; ++i)
      for (int part = 0; part < PER_WORD; ++part)
        columns[first + i * PER_WORD + part] = Type::from_word(words[i], part);
  }
}
