// Metal's vector constructors, `float4(a, b.xy, c)`: OpenCL writes them as casts.
#pragma once

namespace emu {
template <class V>
METAL_FUNC constexpr void fill(thread V&, int) {}
template <class V, class First, class... Rest>
METAL_FUNC constexpr void fill(thread V& vector, int at, First first, Rest... rest) {
  typedef metal::make_scalar_t<V> S;
  constexpr int width = metal::make_scalar<First>::width;
  if constexpr (width > 1) {
    for (int i = 0; i < width; i++) vector[at + i] = (S)first[i];
  } else {
    vector[at] = (S)first;
  }
  fill(vector, at + width, rest...);
}

template <class V, class... Parts>
METAL_FUNC constexpr V make(Parts... parts) {
  constexpr int given = (metal::make_scalar<Parts>::width + ... + 0);
  static_assert(given == metal::make_scalar<V>::width, "wrong number of vector components");
  V vector = (V)(metal::make_scalar_t<V>)0;
  fill(vector, 0, parts...);
  return vector;
}
template <class V, class Part>
METAL_FUNC constexpr V make(Part part) {
  if constexpr (metal::make_scalar<Part>::width > 1) return __builtin_convertvector(part, V);
  else return (V)(metal::make_scalar_t<V>)part;
}
}  // namespace emu

#define float2(...) emu::make<float2>(__VA_ARGS__)
#define float3(...) emu::make<float3>(__VA_ARGS__)
#define float4(...) emu::make<float4>(__VA_ARGS__)
#define half2(...) emu::make<half2>(__VA_ARGS__)
#define half4(...) emu::make<half4>(__VA_ARGS__)
#define uint2(...) emu::make<uint2>(__VA_ARGS__)
#define uint3(...) emu::make<uint3>(__VA_ARGS__)
#define uint4(...) emu::make<uint4>(__VA_ARGS__)
#define int2(...) emu::make<int2>(__VA_ARGS__)
#define int4(...) emu::make<int4>(__VA_ARGS__)
#define short2(...) emu::make<short2>(__VA_ARGS__)
#define ushort2(...) emu::make<ushort2>(__VA_ARGS__)
#define ulong2(...) emu::make<ulong2>(__VA_ARGS__)
#define ulong3(...) emu::make<ulong3>(__VA_ARGS__)
