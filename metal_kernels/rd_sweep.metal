  // errors[row] = sum of w^2, then the squared error of each format, over row `row` of w. One SIMD
  // group a row, 128 values at a time, four a lane: every weight is read once.
  const size_t width = w_shape[1];
  const size_t row = thread_position_in_grid.y;
  const uint lane = thread_index_in_simdgroup;
  float sums[22];
#pragma clang loop unroll(full)
  for (int f = 0; f < 22; f++) {
    sums[f] = 0;
  }
  for (size_t start = 0; start < width; start += 128) {
    const size_t first = start + lane * 4;
    const float present = first < width ? 1.0f : 0.0f;
    float values[4];
    float least = INFINITY, greatest = -INFINITY, largest = 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
      values[i] = first < width ? static_cast<float>(w[row * width + first + i]) : 0.0f;
      least = metal::min(least, values[i]);
      greatest = metal::max(greatest, values[i]);
      sums[0] += values[i] * values[i];
    }
#pragma clang loop unroll(full)
    for (ushort mask = 1; mask < 4; mask <<= 1) {
      least = metal::min(least, simd_shuffle_xor(least, mask));
      greatest = metal::max(greatest, simd_shuffle_xor(greatest, mask));
    }
    largest = metal::max(metal::abs(least), metal::abs(greatest));
    const float nv_scale = round_to<3, -6>(largest / 6.0f, 448.0f);
    sums[20] += float_error<1, 0>(values, nv_scale, 6.0f);
    int column = 1;
#pragma clang loop unroll(full)
    for (ushort mask = 4; mask < 32; mask <<= 1) {
      least = metal::min(least, simd_shuffle_xor(least, mask));
      greatest = metal::max(greatest, simd_shuffle_xor(greatest, mask));
      if (mask == 4) {
        largest = metal::max(metal::abs(least), metal::abs(greatest));
        sums[19] += float_error<1, 0>(values, power_of_two_above(largest / 6.0f), 6.0f);
        sums[21] += float_error<3, -6>(values, power_of_two_above(largest / 448.0f), 448.0f);
      }
      if (mask * 8 <= WIDEST_GROUP) {
        sums[column] += present * affine_error<T>(values, least, greatest, 3.0f);
        sums[column + 3] += present * affine_error<T>(values, least, greatest, 7.0f);
        sums[column + 6] += present * affine_error<T>(values, least, greatest, 15.0f);
        sums[column + 9] += present * affine_error<T>(values, least, greatest, 31.0f);
        sums[column + 12] += present * affine_error<T>(values, least, greatest, 63.0f);
        sums[column + 15] += present * affine_error<T>(values, least, greatest, 255.0f);
      }
      column++;
    }
  }
#pragma clang loop unroll(full)
  for (int f = 0; f < 22; f++) {
    const float total = simd_sum(sums[f]);
    if (lane == 0) {
      errors[row * 22 + f] = total;
    }
  }
