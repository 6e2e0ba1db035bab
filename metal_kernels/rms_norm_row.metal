// One row of out = B (weight * h / sqrt(mean(h^2) + eps)), h = x, or x + residual rounded to T. A
// threadgroup holds the row in registers, CHUNKS times four values a thread: it is read once.
template <typename T, int CHUNKS, bool RESIDUAL>
METAL_FUNC void rms_norm_row(
    const device T* x,
    const device T* residual,
    const device T* weight,
    device T* sum,
    device T* out,
    threadgroup float* partial,
    uint width,
    float eps,
    uint index,
    uint threads,
    uint lane,
    uint simdgroup) {
  float held[CHUNKS][4];
  float squares = 0;
#pragma clang loop unroll(full)
  for (int c = 0; c < CHUNKS; c++) {
    const uint first = (c * threads + index) * 4;
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
      held[c][i] = 0;
      if (first < width) {
        held[c][i] = static_cast<float>(x[first + i]);
        if (RESIDUAL) {
          const T added = static_cast<T>(held[c][i] + static_cast<float>(residual[first + i]));
          sum[first + i] = added;
          held[c][i] = static_cast<float>(added);
        }
      }
      squares += held[c][i] * held[c][i];
    }
  }
  squares = simd_sum(squares);
  if (simdgroup == 0) {
    partial[lane] = 0;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) {
    partial[simdgroup] = squares;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float scale = metal::precise::rsqrt(simd_sum(partial[lane]) / width + eps);
#pragma clang loop unroll(full)
  for (int c = 0; c < CHUNKS; c++) {
    const uint first = (c * threads + index) * 4;
    const bool inside = first < width;
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
      held[c][i] *= inside ? scale * static_cast<float>(weight[first + i]) : 0.0f;
    }
    butterfly32<4>(held[c], lane);
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
      if (inside) {
        out[first + i] = static_cast<T>(held[c][i]);
      }
    }
  }
}
