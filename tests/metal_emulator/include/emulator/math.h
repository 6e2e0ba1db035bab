// <metal_math>, <metal_common>, <metal_integer>, <metal_relational>: float and half, scalars and
// vectors of up to four.
#pragma once

namespace emu {
METAL_FUNC float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
METAL_FUNC float fract(float x) { return __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f); }
METAL_FUNC float sinpi(float x) { return EMU_LIBM(sinf)(x * M_PI_F); }
METAL_FUNC float cospi(float x) { return EMU_LIBM(cosf)(x * M_PI_F); }
METAL_FUNC float tanpi(float x) { return EMU_LIBM(tanf)(x * M_PI_F); }
METAL_FUNC float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }
METAL_FUNC float saturate(float x) { return __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f); }
METAL_FUNC float divide(float x, float y) { return x / y; }
}  // namespace emu

#define EMU_EACH_VECTOR(M, name) M(name, ::float2) M(name, ::float3) M(name, ::float4) \
  M(name, ::half2) M(name, ::half3) M(name, ::half4)
#define EMU_LANES(V) for (int i = 0; i < make_scalar<V>::width; i++)
#define EMU_VECTOR1(name, V) METAL_FUNC V name(V x) { V r; EMU_LANES(V) r[i] = name(x[i]); return r; }
#define EMU_VECTOR2(name, V) \
  METAL_FUNC V name(V x, V y) { V r; EMU_LANES(V) r[i] = name(x[i], y[i]); return r; }
#define EMU_VECTOR3(name, V) \
  METAL_FUNC V name(V x, V y, V z) { V r; EMU_LANES(V) r[i] = name(x[i], y[i], z[i]); return r; }
#define EMU_FLOAT1(name, f) METAL_FUNC float name(float x) { return f(x); } \
  METAL_FUNC half name(half x) { return (half)f((float)x); } EMU_EACH_VECTOR(EMU_VECTOR1, name)
#define EMU_FLOAT2(name, f) METAL_FUNC float name(float x, float y) { return f(x, y); } \
  METAL_FUNC half name(half x, half y) { return (half)f((float)x, (float)y); } \
  EMU_EACH_VECTOR(EMU_VECTOR2, name)
#define EMU_FLOAT3(name, f) METAL_FUNC float name(float x, float y, float z) { return f(x, y, z); } \
  METAL_FUNC half name(half x, half y, half z) { return (half)f((float)x, (float)y, (float)z); } \
  EMU_EACH_VECTOR(EMU_VECTOR3, name)

// What exists in metal::, metal::precise:: and metal::fast:: alike.
#define EMU_MATH                                                                              \
  EMU_FLOAT1(exp, EMU_LIBM(expf)) EMU_FLOAT1(exp2, EMU_LIBM(exp2f))                           \
  EMU_FLOAT1(exp10, EMU_LIBM(exp10f)) EMU_FLOAT1(log, EMU_LIBM(logf))                         \
  EMU_FLOAT1(log2, EMU_LIBM(log2f)) EMU_FLOAT1(log10, EMU_LIBM(log10f))                       \
  EMU_FLOAT1(sin, EMU_LIBM(sinf)) EMU_FLOAT1(cos, EMU_LIBM(cosf)) EMU_FLOAT1(tan, EMU_LIBM(tanf)) \
  EMU_FLOAT1(sinh, EMU_LIBM(sinhf)) EMU_FLOAT1(cosh, EMU_LIBM(coshf))                         \
  EMU_FLOAT1(tanh, EMU_LIBM(tanhf)) EMU_FLOAT1(asin, EMU_LIBM(asinf))                         \
  EMU_FLOAT1(acos, EMU_LIBM(acosf)) EMU_FLOAT1(atan, EMU_LIBM(atanf))                         \
  EMU_FLOAT1(asinh, EMU_LIBM(asinhf)) EMU_FLOAT1(acosh, EMU_LIBM(acoshf))                     \
  EMU_FLOAT1(atanh, EMU_LIBM(atanhf)) EMU_FLOAT1(sqrt, __builtin_sqrtf)                       \
  EMU_FLOAT1(rsqrt, emu::rsqrt) EMU_FLOAT1(floor, __builtin_floorf)                           \
  EMU_FLOAT1(ceil, __builtin_ceilf) EMU_FLOAT1(trunc, __builtin_truncf)                       \
  EMU_FLOAT1(round, __builtin_roundf) EMU_FLOAT1(rint, __builtin_rintf)                       \
  EMU_FLOAT1(fabs, __builtin_fabsf) EMU_FLOAT1(fract, emu::fract) EMU_FLOAT1(sinpi, emu::sinpi) \
  EMU_FLOAT1(cospi, emu::cospi) EMU_FLOAT1(tanpi, emu::tanpi)                                 \
  EMU_FLOAT2(fmin, __builtin_fminf) EMU_FLOAT2(fmax, __builtin_fmaxf)                         \
  EMU_FLOAT2(pow, EMU_LIBM(powf)) EMU_FLOAT2(powr, EMU_LIBM(powf))                            \
  EMU_FLOAT2(fmod, EMU_LIBM(fmodf)) EMU_FLOAT2(atan2, EMU_LIBM(atan2f))                       \
  METAL_FUNC float divide(float x, float y) { return x / y; }

namespace metal {
EMU_MATH
namespace precise { EMU_MATH }
namespace fast { EMU_MATH }
EMU_FLOAT1(sign, emu::sign)
EMU_FLOAT1(saturate, emu::saturate)
EMU_FLOAT2(copysign, __builtin_copysignf)
EMU_FLOAT2(nextafter, EMU_LIBM(nextafterf))
EMU_FLOAT3(fma, __builtin_fmaf)
METAL_FUNC float ldexp(float x, int k) { return EMU_LIBM(ldexpf)(x, k); }

#define EMU_TEST(name, f) METAL_FUNC bool name(float x) { return f(x); } \
  METAL_FUNC bool name(half x) { return f((float)x); }
EMU_TEST(isnan, __builtin_isnan)
EMU_TEST(isinf, __builtin_isinf)
EMU_TEST(isfinite, __builtin_isfinite)
#undef EMU_TEST

// One overload per type, never a template: mixed arguments are ambiguous, as for Apple's compiler.
#define EMU_ORDER(T) \
  METAL_FUNC constexpr T min(T a, T b) { return b < a ? b : a; }          \
  METAL_FUNC constexpr T max(T a, T b) { return a < b ? b : a; }          \
  METAL_FUNC constexpr T clamp(T x, T a, T b) { return min(max(x, a), b); } \
  METAL_FUNC constexpr T select(T a, T b, bool c) { return c ? b : a; }
EMU_ORDER(char) EMU_ORDER(int8_t) EMU_ORDER(uchar) EMU_ORDER(short) EMU_ORDER(ushort)
EMU_ORDER(int) EMU_ORDER(uint) EMU_ORDER(long) EMU_ORDER(ulong)
#undef EMU_ORDER
#define EMU_ORDER(T) \
  METAL_FUNC T min(T a, T b) { return (T)__builtin_fminf((float)a, (float)b); } \
  METAL_FUNC T max(T a, T b) { return (T)__builtin_fmaxf((float)a, (float)b); } \
  METAL_FUNC T clamp(T x, T a, T b) { return min(max(x, a), b); }               \
  METAL_FUNC T select(T a, T b, bool c) { return c ? b : a; }                   \
  METAL_FUNC T min3(T a, T b, T c) { return min(a, min(b, c)); }                \
  METAL_FUNC T max3(T a, T b, T c) { return max(a, max(b, c)); }                \
  METAL_FUNC T abs(T x) { return (T)__builtin_fabsf((float)x); }
EMU_ORDER(float) EMU_ORDER(half)
#undef EMU_ORDER
EMU_EACH_VECTOR(EMU_VECTOR2, min)
EMU_EACH_VECTOR(EMU_VECTOR2, max)
EMU_EACH_VECTOR(EMU_VECTOR1, abs)
#define EMU_DOT(name, V) METAL_FUNC make_scalar_t<V> name(V x, V y) { \
  make_scalar_t<V> r = 0; EMU_LANES(V) r += x[i] * y[i]; return r; }
EMU_EACH_VECTOR(EMU_DOT, dot)
#undef EMU_DOT
METAL_FUNC int abs(int x) { return x < 0 ? -x : x; }
METAL_FUNC long abs(long x) { return x < 0 ? -x : x; }
METAL_FUNC uint popcount(uint x) { return __builtin_popcount(x); }
METAL_FUNC uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
METAL_FUNC uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
METAL_FUNC uint extract_bits(uint x, uint first, uint count) {
  return count ? (x >> first) & (0xffffffffu >> (32 - count)) : 0;
}
}  // namespace metal
