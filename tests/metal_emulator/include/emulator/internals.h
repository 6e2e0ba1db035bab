// Names inside Apple's compiler that MLX's bf16_math.h calls.
#pragma once

#define __METAL_MAYBE_FAST_MATH__ 0
#define __METAL_FAST_MATH__ 1
#define __METAL_PRECISE_MATH__ 2
#define EMU_ONE(name) METAL_FUNC float __metal_##name(float x, int) { return metal::name(x); }
#define EMU_TWO(name) METAL_FUNC float __metal_##name(float x, float y, int) { return metal::name(x, y); }
EMU_ONE(fabs) EMU_ONE(acos) EMU_ONE(acosh) EMU_ONE(asin) EMU_ONE(asinh) EMU_ONE(atan) EMU_ONE(atanh)
EMU_ONE(ceil) EMU_ONE(cos) EMU_ONE(cosh) EMU_ONE(cospi) EMU_ONE(exp) EMU_ONE(exp10) EMU_ONE(exp2)
EMU_ONE(floor) EMU_ONE(fract) EMU_ONE(log) EMU_ONE(log10) EMU_ONE(log2) EMU_ONE(rint) EMU_ONE(round)
EMU_ONE(rsqrt) EMU_ONE(sin) EMU_ONE(sinh) EMU_ONE(sinpi) EMU_ONE(sqrt) EMU_ONE(tan) EMU_ONE(tanh)
EMU_ONE(tanpi) EMU_ONE(trunc)
EMU_TWO(atan2) EMU_TWO(divide) EMU_TWO(fmax) EMU_TWO(fmin) EMU_TWO(fmod) EMU_TWO(pow) EMU_TWO(powr)
#undef EMU_ONE
#undef EMU_TWO
METAL_FUNC float __metal_nextafter(float x, float y) { return metal::nextafter(x, y); }
METAL_FUNC float __metal_fma(float x, float y, float z) { return metal::fma(x, y, z); }
METAL_FUNC float __metal_fmax3(float x, float y, float z, int) { return metal::max3(x, y, z); }
METAL_FUNC float __metal_fmin3(float x, float y, float z, int) { return metal::min3(x, y, z); }
METAL_FUNC float __metal_fmedian3(float x, float y, float z, int) {
  return metal::max(metal::min(x, y), metal::min(metal::max(x, y), z));
}
METAL_FUNC float __metal_ldexp(float x, int k, int) { return metal::ldexp(x, k); }
METAL_FUNC float __metal_frexp(float x, thread int* k) { return __builtin_frexpf(x, (int*)k); }
METAL_FUNC ushort __metal_get_simdgroup_size(ushort) { return 32; }
METAL_FUNC ushort __metal_get_thread_index_in_simdgroup(ushort) { return (ushort)emu_lane_index(); }

#define EMU_SAME(name) \
  template <class... Args> METAL_FUNC auto __metal_##name(Args... args) { return metal::name(args...); }
EMU_SAME(simd_broadcast) EMU_SAME(simd_shuffle) EMU_SAME(simd_shuffle_and_fill_down)
EMU_SAME(simd_shuffle_and_fill_up) EMU_SAME(simd_shuffle_down) EMU_SAME(simd_shuffle_rotate_down)
EMU_SAME(simd_shuffle_rotate_up) EMU_SAME(simd_shuffle_up) EMU_SAME(simd_shuffle_xor)
EMU_SAME(simd_max) EMU_SAME(simd_min) EMU_SAME(simd_sum) EMU_SAME(simd_product)
EMU_SAME(simd_prefix_exclusive_sum) EMU_SAME(simd_prefix_inclusive_sum)
EMU_SAME(simd_prefix_exclusive_product) EMU_SAME(simd_prefix_inclusive_product)
#undef EMU_SAME
METAL_FUNC float __metal_simd_xor(float x) { return x; }
