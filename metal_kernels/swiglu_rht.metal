  // out = B (activation(gate) * up) on blocks of 32 of the last axis; four values a lane.
  const size_t first = static_cast<size_t>(thread_position_in_grid.x) * 4;
  float values[4];
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    const float g = static_cast<float>(gate[first + i]);
    float activated;
    if (TANH_GELU) {
      const float inner = 0.7978845608028654f * (g + 0.044715f * g * g * g);
      activated = 0.5f * g * (1.0f + metal::precise::tanh(inner));
    } else {
      activated = g / (1.0f + metal::precise::exp(-g));
    }
    values[i] = activated * static_cast<float>(up[first + i]);
  }
  butterfly32<4>(values, thread_index_in_simdgroup);
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    out[first + i] = static_cast<T>(values[i]);
  }
