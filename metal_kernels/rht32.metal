  // out = B (diagonal * inp) on blocks of 32 of the last axis; four values a lane.
  const size_t first = static_cast<size_t>(thread_position_in_grid.x) * 4;
  const uint lane = thread_index_in_simdgroup;
  const uint column = first % static_cast<size_t>(inp_shape[inp_ndim - 1]);
  float values[4];
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    values[i] = static_cast<float>(inp[first + i]) * diagonal[column + i];
  }
  butterfly32<4>(values, lane);
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    out[first + i] = static_cast<T>(values[i]);
  }
