// <metal_type_traits> and <metal_limits>.
#pragma once

namespace metal {
using ::size_t;
using ::uchar;
using ::uint;
using ::ulong;
using ::ushort;
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <class T, T v>
struct integral_constant {
  static constexpr constant T value = v;
  typedef T value_type;
  typedef integral_constant type;
  constexpr operator T() const { return v; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;

template <class T> struct remove_addrspace { typedef T type; };
template <class T> struct remove_addrspace<device T> { typedef T type; };
#ifndef __NVPTX__
template <class T> struct remove_addrspace<constant T> { typedef T type; };
#endif
template <class T> struct remove_addrspace<threadgroup T> { typedef T type; };
template <class T> struct remove_addrspace<thread T> { typedef T type; };
template <class T> using remove_addrspace_t = typename remove_addrspace<T>::type;
template <class T> struct remove_cv { typedef typename remove_addrspace<__remove_cv(T)>::type type; };
template <class T> using remove_cv_t = typename remove_cv<T>::type;
template <class T> struct remove_reference { typedef __remove_reference_t(T) type; };
template <class T> using remove_reference_t = typename remove_reference<T>::type;

template <class A, class B> struct is_same : bool_constant<__is_same(A, B)> {};
template <class A, class B> constexpr constant bool is_same_v = __is_same(A, B);
template <class A, class B> struct is_convertible : bool_constant<__is_convertible(A, B)> {};
template <class A, class B> constexpr constant bool is_convertible_v = __is_convertible(A, B);
template <class T> struct is_integral : bool_constant<__is_integral(remove_cv_t<T>)> {};
template <class T> constexpr constant bool is_integral_v = is_integral<T>::value;
template <class T> struct is_floating_point : bool_constant<__is_floating_point(remove_cv_t<T>)> {};
template <class T> constexpr constant bool is_floating_point_v = is_floating_point<T>::value;
template <class T> struct is_unsigned : bool_constant<__is_unsigned(T)> {};
template <class T> constexpr constant bool is_unsigned_v = is_unsigned<T>::value;
template <class T> struct is_signed : bool_constant<__is_signed(T)> {};
template <class T> constexpr constant bool is_signed_v = is_signed<T>::value;

template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;
template <bool B, class T, class F> struct conditional { typedef T type; };
template <class T, class F> struct conditional<false, T, F> { typedef F type; };
template <bool B, class T, class F> using conditional_t = typename conditional<B, T, F>::type;

template <class T> struct make_scalar { typedef T type; static constexpr constant int width = 1; };
template <class T, int N>
struct make_scalar<T __attribute__((ext_vector_type(N)))> {
  typedef T type;
  static constexpr constant int width = N;
};
template <class T> using make_scalar_t = typename make_scalar<T>::type;

template <class T> struct numeric_limits;
#define EMU_INTEGER(T, low, high, bits)                \
  template <> struct numeric_limits<T> {               \
    static constexpr constant int digits = bits;       \
    static constexpr T max() { return high; }          \
    static constexpr T min() { return low; }           \
    static constexpr T lowest() { return low; }        \
  };
EMU_INTEGER(bool, false, true, 1)
EMU_INTEGER(char, -128, 127, 7)
EMU_INTEGER(int8_t, -128, 127, 7)
EMU_INTEGER(uchar, 0, 255, 8)
EMU_INTEGER(short, -32768, 32767, 15)
EMU_INTEGER(ushort, 0, 65535, 16)
EMU_INTEGER(int, (-2147483647 - 1), 2147483647, 31)
EMU_INTEGER(uint, 0, 4294967295u, 32)
EMU_INTEGER(long, (-9223372036854775807L - 1), 9223372036854775807L, 63)
EMU_INTEGER(ulong, 0, 18446744073709551615UL, 64)
#undef EMU_INTEGER
#define EMU_FLOATING(T, high, normal, step, bits)                              \
  template <> struct numeric_limits<T> {                                       \
    static constexpr constant int digits = bits;                               \
    static constexpr T max() { return T(high); }                               \
    static constexpr T min() { return T(normal); }                             \
    static constexpr T lowest() { return -T(high); }                           \
    static constexpr T epsilon() { return T(step); }                           \
    static constexpr T infinity() { return T(__builtin_inff()); }              \
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }           \
  };
EMU_FLOATING(float, 3.402823466e+38f, 1.175494351e-38f, 1.1920929e-7f, 24)
EMU_FLOATING(half, 65504.0f, 6.103515625e-05f, 9.765625e-04f, 11)
EMU_FLOATING(bfloat, 3.38953139e+38f, 1.175494351e-38f, 7.8125e-3f, 8)
#undef EMU_FLOATING
}  // namespace metal

template <class To, class From>
METAL_FUNC constexpr To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From), "as_type: the sizes differ");
  return __builtin_bit_cast(To, value);
}
