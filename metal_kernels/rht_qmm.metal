  // y = (B x) W^T for many rows of x: tiles of 32 x 32 outputs, four SIMD groups of 16 x 16 each,
  // 32 inputs at a time. The transform happens on the way into threadgroup memory.
  constexpr int STRIDE = 36;
  threadgroup float left[32 * STRIDE];
  threadgroup float right[32 * STRIDE];
  const uint lane = thread_index_in_simdgroup;
  const uint simdgroup = simdgroup_index_in_threadgroup;
  const uint row = thread_index_in_threadgroup / 4;
  const uint part = thread_index_in_threadgroup % 4 * 8;
  const size_t width = x_shape[1];
  const uint rows = x_shape[0];
  const uint outputs = scales_shape[0];
  const uint2 tile = MORTON ? morton_tile(threadgroup_position_in_grid.x, (outputs + 31) / 32, (rows + 31) / 32)
                            : uint2(threadgroup_position_in_grid.x, threadgroup_position_in_grid.y);
  if (MORTON && (tile.x * 32 >= outputs || tile.y * 32 >= rows)) {
    return;  // the whole threadgroup, before any barrier
  }
  const size_t x_row = tile.y * 32 + row;
  const size_t w_row = tile.x * 32 + row;
  const device uint8_t* codes = reinterpret_cast<const device uint8_t*>(w);
  simdgroup_float8x8 totals[2][2];
#pragma clang loop unroll(full)
  for (int i = 0; i < 2; i++) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 2; j++) {
      totals[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
  }
  const uint top = simdgroup / 2 * 16, across = simdgroup % 2 * 16;
  for (size_t start = 0; start < width; start += 32) {
    float values[8];
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++) {
      values[i] = x_row < rows ? static_cast<float>(x[x_row * width + start + part + i]) : 0.0f;
    }
    if (ROTATE) {
      butterfly32<8>(values, lane);
    }
    float code[8];
    float2 group = float2(0, 0);
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++) {
      code[i] = 0;
    }
    if (w_row < outputs) {
      unpack8<BITS>(codes + (w_row * width + start + part) / 8 * BITS, code);
      group = of_group<GROUP>(scales, second, w_row, width, start + part);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++) {
      left[row * STRIDE + part + i] = values[i];
      right[row * STRIDE + part + i] = group.x * code[i] + group.y;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int k = 0; k < 32; k += 8) {
      simdgroup_float8x8 a[2], b[2];
#pragma clang loop unroll(full)
      for (int i = 0; i < 2; i++) {
        simdgroup_load(a[i], left + (top + i * 8) * STRIDE + k, STRIDE);
        simdgroup_load(b[i], right + (across + i * 8) * STRIDE + k, STRIDE, ulong2(0, 0), true);
      }
#pragma clang loop unroll(full)
      for (int i = 0; i < 2; i++) {
#pragma clang loop unroll(full)
        for (int j = 0; j < 2; j++) {
          simdgroup_multiply_accumulate(totals[i][j], a[i], b[j], totals[i][j]);
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 2; i++) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 2; j++) {
      simdgroup_store(totals[i][j], left + (top + i * 8) * STRIDE + across + j * 8, STRIDE);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++) {
    const size_t column = tile.x * 32 + part + i;
    if (x_row < rows && column < outputs) {
      y[x_row * outputs + column] = static_cast<T>(left[row * STRIDE + part + i]);
    }
  }
