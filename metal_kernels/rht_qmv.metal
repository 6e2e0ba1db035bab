  // y[m, n] = sum over k of (B x[m])[k] * (scale * code[n, k] + bias), codes packed as MLX packs them;
  // scale and bias are what `of_lanes` decodes. Two SIMD groups a threadgroup, ROWS outputs each; every
  // lane transforms VALUES inputs in registers.
  const uint lane = thread_index_in_simdgroup;
  const size_t width = x_shape[1];
  const uint outputs = scales_shape[0];
  const uint first_row =
      (threadgroup_position_in_grid.y * 2 + simdgroup_index_in_threadgroup) * ROWS;
  const device T* row_of_x = x + threadgroup_position_in_grid.x * width;
  const device uint8_t* codes = reinterpret_cast<const device uint8_t*>(w);
  float totals[ROWS];
#pragma clang loop unroll(full)
  for (int r = 0; r < ROWS; r++) {
    totals[r] = 0;
  }
  for (size_t start = 0; start < width; start += 32 * VALUES) {
    const size_t k = start + lane * VALUES;
    const bool inside = k < width;
    float values[VALUES];
    float sum = 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < VALUES; i++) {
      values[i] = inside ? static_cast<float>(row_of_x[k + i]) : 0.0f;
    }
    if (ROTATE) {
      butterfly32<VALUES>(values, lane);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < VALUES; i++) {
      sum += values[i];
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < ROWS; r++) {
      const size_t row = first_row + r;
      if (row >= outputs) {
        continue;
      }
      const float2 group = of_lanes<GROUP, VALUES>(scales, second, row, width, k, inside, lane);
      if (!inside) {
        continue;
      }
      float product = 0;
#pragma clang loop unroll(full)
      for (int part = 0; part < VALUES; part += 8) {
        float code[8];
        unpack8<BITS>(codes + (row * width + k + part) / 8 * BITS, code);
#pragma clang loop unroll(full)
        for (int i = 0; i < 8; i++) {
          product += values[part + i] * code[i];
        }
      }
      totals[r] += group.x * product + group.y * sum;
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < ROWS; r++) {
    const float total = simd_sum(totals[r]);
    if (lane == 0 && first_row + r < outputs) {
      y[threadgroup_position_in_grid.x * static_cast<size_t>(outputs) + first_row + r] =
          static_cast<T>(total);
    }
  }
