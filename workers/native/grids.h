// Which scales and biases a number format can store, and those nearest to wanted ones.
//
// A group of every integer format stands for scale * code + bias. Formats differ in what the two may be:
//   affine      any two values of the storage type
//   two-level   D * c and -M * m, where c and m are 4-bit integers of the group and D and M belong to a
//               span of 256 columns
//   zero point  s and -s * z, where z is a code; symmetric: z is the middle code
#pragma once
#include "vector.h"

enum Layout : int { AFFINE = 0, TWO_LEVEL = 1, ZERO_POINT = 2, SYMMETRIC = 3 };

constexpr int SPAN = 256;         // columns that share D and M
constexpr float SMALL_MOST = 15;  // of the 4-bit integers of a group
constexpr float LEAST_SCALE = 1e-7f; // one that would be zero is tiny instead, as in mx.quantize

INLINE Vec clamp_code(Vec x, float most) { return minimum(maximum(round_even(x), Vec{}), all(most)); }
template <class Type> INLINE Vec usable_scale(Vec scale) {
  return Type::round(magnitude(scale) < all(LEAST_SCALE) ? all(LEAST_SCALE) : scale);
}

// Scale and bias of sixteen groups.
struct Parameters {
  Vec scale, bias;
};

template <class Type> struct AffineGrid {
  static constexpr bool NESTED = false, TIED = false;
  INLINE Parameters start(Vec low, Vec high, float share, float most) {
    return {(high - low) * all(share) / all(most), low * all(share)};
  }
  Vec scale(Vec wanted) const { return usable_scale<Type>(wanted); }
  Vec bias(Vec wanted, Vec) const { return Type::round(wanted); }
};

// Ranges that hold zero, as formats without a free bias need them.
INLINE Parameters start_around_zero(Vec low, Vec high, float share, float most) {
  low = minimum(low, Vec{});
  return {(maximum(high, Vec{}) - low) * all(share) / all(most), low * all(share)};
}

// What small integers are rounded from: any scale, any bias that is not positive.
struct FreeGrid {
  static constexpr bool NESTED = false, TIED = false;
  INLINE Parameters start(Vec low, Vec high, float share, float most) {
    return start_around_zero(low, high, share, most);
  }
  Vec scale(Vec wanted) const { return maximum(wanted, all(LEAST_SCALE)); }
  Vec bias(Vec wanted, Vec) const { return minimum(wanted, Vec{}); }
};

struct TwoLevelGrid {
  static constexpr bool NESTED = true, TIED = false;
  Vec step, low; // D and M
  INLINE Parameters start(Vec low, Vec high, float share, float most) {
    return start_around_zero(low, high, share, most);
  }
  INLINE Vec small(Vec wanted, Vec unit) {
    return clamp_code(unit == Vec{} ? Vec{} : wanted / (unit == Vec{} ? all(1.0f) : unit), SMALL_MOST);
  }
  Vec scale(Vec wanted) const { return step * maximum(small(wanted, step), all(1.0f)); }
  Vec bias(Vec wanted, Vec) const { return -(low * small(-wanted, low)); }
};

struct ZeroPointGrid {
  static constexpr bool NESTED = false, TIED = true;
  float most; // the largest code
  INLINE Parameters start(Vec low, Vec high, float share, float most) {
    return start_around_zero(low, high, share, most);
  }
  Vec scale(Vec wanted) const { return usable_scale<Bf16>(wanted); }
  Vec bias(Vec wanted, Vec scale) const { return -(scale * clamp_code(-wanted / scale, most)); }
};

struct SymmetricGrid {
  static constexpr bool NESTED = false, TIED = true;
  float middle; // the code of zero
  INLINE Parameters start(Vec low, Vec high, float share, float most) {
    const Vec scale = maximum(-low, high) * all(2 * share) / all(most - 1);
    return {scale, scale};
  }
  Vec scale(Vec wanted) const { return usable_scale<Bf16>(wanted); }
  Vec bias(Vec, Vec scale) const { return -(scale * all(middle)); }
};

template <class GridOf> GridOf a_maker();
template <class GridOf> using GridIn = decltype(a_maker<GridOf>()(Vec{}, Vec{}));

// Call `body(grid_of)` where `grid_of(D, M)` makes the grid of a layout.
template <class Body> INLINE void with_layout(int layout, int storage, int bits, Body body) {
  const float most = (float)((1 << bits) - 1);
  switch (layout) {
  case TWO_LEVEL: body([](Vec step, Vec low) { return TwoLevelGrid{step, low}; }); break;
  case ZERO_POINT: body([=](Vec, Vec) { return ZeroPointGrid{most}; }); break;
  case SYMMETRIC: body([=](Vec, Vec) { return SymmetricGrid{(most + 1) / 2}; }); break;
  default:
    with_storage(storage, [&](auto type) { body([](Vec, Vec) { return AffineGrid<decltype(type)>{}; }); });
  }
}
