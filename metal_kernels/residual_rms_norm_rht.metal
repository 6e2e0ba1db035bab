  threadgroup float partial[32];
  const uint width = x_shape[1];
  const size_t row = static_cast<size_t>(threadgroup_position_in_grid.x) * width;
  rms_norm_row<T, CHUNKS, true>(
      x + row, residual + row, weight, sum + row, out + row, partial, width, eps,
      thread_index_in_threadgroup, threads_per_threadgroup.x, thread_index_in_simdgroup,
      simdgroup_index_in_threadgroup);
