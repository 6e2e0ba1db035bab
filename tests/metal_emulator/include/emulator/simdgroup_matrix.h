// <metal_simdgroup_matrix>: 8 x 8 matrices over 32 lanes, two neighbours of a row in each lane, in
// the layout that MLX's steel/gemm/mma.h relies on.
#pragma once

namespace emu {
METAL_FUNC uint matrix_row(uint lane) { return (lane / 4 & 4) + lane / 2 % 4; }
METAL_FUNC uint matrix_column(uint lane) { return (lane / 4 & 2) * 2 + lane % 2 * 2; }
METAL_FUNC uint matrix_lane(uint row, uint column) {
  return (row & 4) * 4 + (row & 3) * 2 + (column & 4) * 2 + (column >> 1 & 1);
}
}  // namespace emu

namespace metal {
template <class T, int Rows, int Columns>
struct simdgroup_matrix {
  static_assert(Rows == 8 && Columns == 8, "a simdgroup_matrix is 8 x 8");
  typedef vec<T, 2> Pair;
  Pair pair;
  METAL_FUNC simdgroup_matrix() thread {}
  METAL_FUNC explicit simdgroup_matrix(T diagonal) thread {
    const uint lane = emu_lane_index(), row = emu::matrix_row(lane), column = emu::matrix_column(lane);
    pair[0] = row == column ? diagonal : (T)0;
    pair[1] = row == column + 1 ? diagonal : (T)0;
  }
  METAL_FUNC thread Pair& thread_elements() thread { return pair; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int Rows, int Columns>
METAL_FUNC simdgroup_matrix<T, Rows, Columns> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Rows, Columns> matrix;
  matrix.pair = (vec<T, 2>)value;
  return matrix;
}

#define EMU_MEMORY(SPACE)                                                                        \
  template <class T>                                                                             \
  METAL_FUNC void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& to, const SPACE T* from,      \
                                 ulong stride = 8, ulong2 origin = (ulong2)(0ul),                \
                                 bool transposed = false, EMU_SITE) {                            \
    emu_simdgroup_meet(site);                                                                    \
    const uint row = emu::matrix_row(emu_lane_index());                                          \
    const uint column = emu::matrix_column(emu_lane_index());                                    \
    for (uint j = 0; j < 2; j++) {                                                               \
      to.pair[j] = transposed ? from[(origin.y + column + j) * stride + origin.x + row]          \
                              : from[(origin.y + row) * stride + origin.x + column + j];         \
    }                                                                                            \
  }                                                                                              \
  template <class T>                                                                             \
  METAL_FUNC void simdgroup_store(thread simdgroup_matrix<T, 8, 8> from, SPACE T* to,            \
                                  ulong stride = 8, ulong2 origin = (ulong2)(0ul),               \
                                  bool transposed = false, EMU_SITE) {                           \
    emu_simdgroup_meet(site);                                                                    \
    const uint row = emu::matrix_row(emu_lane_index());                                          \
    const uint column = emu::matrix_column(emu_lane_index());                                    \
    for (uint j = 0; j < 2; j++) {                                                               \
      if (transposed) to[(origin.y + column + j) * stride + origin.x + row] = from.pair[j];      \
      else to[(origin.y + row) * stride + origin.x + column + j] = from.pair[j];                 \
    }                                                                                            \
  }
#ifdef __NVPTX__
METAL_FUNC void emu_simdgroup_meet(ulong) { __nvvm_bar_warp_sync(__nvvm_activemask()); }
#else
METAL_FUNC void emu_simdgroup_meet(ulong site) { emu_rendezvous(emu_lane(), site); }
#endif
EMU_MEMORY(device)
EMU_MEMORY(threadgroup)
#undef EMU_MEMORY

template <class A, class B>
METAL_FUNC ::float2 emu_multiply(thread const simdgroup_matrix<A, 8, 8>& a,
                                 thread const simdgroup_matrix<B, 8, 8>& b, ::float2 sum, ulong site) {
  ::float4 both;
  both[0] = (float)a.pair[0];
  both[1] = (float)a.pair[1];
  both[2] = (float)b.pair[0];
  both[3] = (float)b.pair[1];
  emu::Exchange<::float4> all(both, site);
  const uint row = emu::matrix_row(all.lane()), column = emu::matrix_column(all.lane());
  for (uint k = 0; k < 8; k++) {
    const ::float4 left = all.at(emu::matrix_lane(row, k)), right = all.at(emu::matrix_lane(k, column));
    const float factor = k & 1 ? left[1] : left[0];
    sum[0] = __builtin_fmaf(factor, right[2], sum[0]);
    sum[1] = __builtin_fmaf(factor, right[3], sum[1]);
  }
  return sum;
}
template <class D, class A, class B, class C>
METAL_FUNC void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d,
                                              thread const simdgroup_matrix<A, 8, 8>& a,
                                              thread const simdgroup_matrix<B, 8, 8>& b,
                                              thread const simdgroup_matrix<C, 8, 8>& c, EMU_SITE) {
  ::float2 sum;
  sum[0] = (float)c.pair[0];
  sum[1] = (float)c.pair[1];
  sum = emu_multiply(a, b, sum, site);
  d.pair[0] = (D)sum[0];
  d.pair[1] = (D)sum[1];
}
template <class D, class A, class B>
METAL_FUNC void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d,
                                   thread const simdgroup_matrix<A, 8, 8>& a,
                                   thread const simdgroup_matrix<B, 8, 8>& b, EMU_SITE) {
  const ::float2 sum = emu_multiply(a, b, (::float2)0.0f, site);
  d.pair[0] = (D)sum[0];
  d.pair[1] = (D)sum[1];
}
}  // namespace metal
