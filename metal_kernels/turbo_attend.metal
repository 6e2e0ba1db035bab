  // Attention of ROWS query rows of one key head over one split of the context. One SIMD group a
  // split: for 32 tokens at a time the lanes share the keys' codes, then each lane weighs the token
  // of its own number (online softmax), then the lanes share the values' codes.
  const uint lane = thread_index_in_simdgroup;
  const uint split = thread_position_in_grid.y;
  const uint splits = threads_per_grid.y;
  const size_t head = thread_position_in_grid.z;
  const uint rows = queries_shape[1];
  const uint first_row = threadgroup_position_in_grid.x * ROWS;
  const size_t capacity = key_scales_shape[1];
  const uint length = (static_cast<uint>(capacity) + splits * 32 - 1) / (splits * 32) * 32;
  const uint tokens = context;
  const uint end = metal::min((split + 1) * length, tokens);
  const device uint8_t* keys = reinterpret_cast<const device uint8_t*>(key_codes);
  const device uint8_t* values = reinterpret_cast<const device uint8_t*>(value_codes);
  constexpr uint KEY_UNITS = KEY_WIDTH / 8, VALUE_UNITS = VALUE_WIDTH / 8;
  constexpr uint KEY_TOKENS = 32 / KEY_LANES, VALUE_TOKENS = 32 / VALUE_LANES;
  constexpr int KEY_PARTS = (KEY_UNITS + KEY_LANES - 1) / KEY_LANES;
  constexpr int VALUE_PARTS = (VALUE_UNITS + VALUE_LANES - 1) / VALUE_LANES;
  constexpr float LOWEST = -3.0e38f;
  // Lanes 0 to 15 hold the codebook of the keys, the others that of the values.
  const float entry = books[lane];
  float query[ROWS][KEY_PARTS * 8];
  float totals[ROWS][VALUE_PARTS * 8];
  float peaks[ROWS], masses[ROWS];
#pragma clang loop unroll(full)
  for (int r = 0; r < ROWS; r++) {
    peaks[r] = LOWEST;
    masses[r] = 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < VALUE_PARTS * 8; i++) {
      totals[r][i] = 0;
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < KEY_PARTS * 8; i++) {
      const uint unit = i / 8 * KEY_LANES + lane;
      float value = 0;
      if (lane < KEY_LANES && unit < KEY_UNITS && first_row + r < rows) {
        value = static_cast<float>(
            queries[(head * rows + first_row + r) * KEY_WIDTH + unit * 8 + i % 8]);
      }
      query[r][i] = simd_shuffle(value, lane % KEY_LANES) * factor;
    }
  }
  for (uint start = split * length; start < end; start += 32) {
    float scores[ROWS];
#pragma clang loop unroll(full)
    for (int r = 0; r < ROWS; r++) {
      scores[r] = 0;
    }
    for (uint step = 0; step < KEY_LANES; step++) {
      const uint token = start + step * KEY_TOKENS + lane / KEY_LANES;
      float products[ROWS];
#pragma clang loop unroll(full)
      for (int r = 0; r < ROWS; r++) {
        products[r] = 0;
      }
#pragma clang loop unroll(full)
      for (int part = 0; part < KEY_PARTS; part++) {
        const uint unit = part * KEY_LANES + lane % KEY_LANES;
        uint2 packed = uint2(0, 0);
        if (token < end && unit < KEY_UNITS) {
          packed = packed8<KEY_BITS>(
              keys + ((head * capacity + token) * KEY_UNITS + unit) * KEY_BITS);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < 8; i++) {
          const float key = simd_shuffle(entry, code_of<KEY_BITS>(packed, i));
#pragma clang loop unroll(full)
          for (int r = 0; r < ROWS; r++) {
            products[r] += query[r][part * 8 + i] * key;
          }
        }
      }
#pragma clang loop unroll(full)
      for (int r = 0; r < ROWS; r++) {
#pragma clang loop unroll(full)
        for (ushort mask = 1; mask < KEY_LANES; mask <<= 1) {
          products[r] += simd_shuffle_xor(products[r], mask);
        }
        const float own = simd_shuffle(products[r], lane % KEY_TOKENS * KEY_LANES);
        scores[r] = lane / KEY_TOKENS == step ? own : scores[r];
      }
    }
    const uint token = start + lane;
    const bool held = token < end;
    float key_scale = 0, value_scale = 0;
    if (held) {
      key_scale = static_cast<float>(key_scales[head * capacity + token]);
      value_scale = static_cast<float>(value_scales[head * capacity + token]);
    }
    float weights[ROWS];
#pragma clang loop unroll(full)
    for (int r = 0; r < ROWS; r++) {
      const uint last = CAUSAL ? tokens - QUERIES + (first_row + r) % QUERIES : tokens;
      const bool visible = held && token <= last;
      const float score = visible ? scores[r] * key_scale : LOWEST;
      const float largest = metal::max(peaks[r], simd_max(score));
      const float weight = visible ? metal::exp(score - largest) : 0.0f;
      const float shrink = metal::exp(peaks[r] - largest);
      peaks[r] = largest;
      masses[r] = masses[r] * shrink + simd_sum(weight);
      weights[r] = weight * value_scale;
#pragma clang loop unroll(full)
      for (int i = 0; i < VALUE_PARTS * 8; i++) {
        totals[r][i] *= shrink;
      }
    }
    for (uint step = 0; step < VALUE_LANES; step++) {
      const uint within = step * VALUE_TOKENS + lane / VALUE_LANES;
      float shares[ROWS];
#pragma clang loop unroll(full)
      for (int r = 0; r < ROWS; r++) {
        shares[r] = simd_shuffle(weights[r], within);
      }
#pragma clang loop unroll(full)
      for (int part = 0; part < VALUE_PARTS; part++) {
        const uint unit = part * VALUE_LANES + lane % VALUE_LANES;
        uint2 packed = uint2(0, 0);
        if (start + within < end && unit < VALUE_UNITS) {
          packed = packed8<VALUE_BITS>(
              values + ((head * capacity + start + within) * VALUE_UNITS + unit) * VALUE_BITS);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < 8; i++) {
          const float value = simd_shuffle(entry, 16 + code_of<VALUE_BITS>(packed, i));
#pragma clang loop unroll(full)
          for (int r = 0; r < ROWS; r++) {
            totals[r][part * 8 + i] += shares[r] * value;
          }
        }
      }
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < ROWS; r++) {
    const size_t row = (head * splits + split) * rows + first_row + r;
    const bool wanted = first_row + r < rows;
#pragma clang loop unroll(full)
    for (int i = 0; i < VALUE_PARTS * 8; i++) {
      float total = totals[r][i];
#pragma clang loop unroll(full)
      for (ushort mask = VALUE_LANES; mask < 32; mask <<= 1) {
        total += simd_shuffle_xor(total, mask);
      }
      const uint unit = i / 8 * VALUE_LANES + lane;
      if (wanted && lane < VALUE_LANES && unit < VALUE_UNITS) {
        partials[row * VALUE_WIDTH + unit * 8 + i % 8] = total;
      }
    }
    if (wanted && lane == 0) {
      maxima[row] = peaks[r];
      sums[row] = masses[r];
    }
  }
