// What scale and bias the group of column k of a row has: a weight is scale * code + bias. `of_group` is
// for any thread, `of_lanes` for all lanes of a SIMD group at once, each with its own k.
// The zero point is 128 everywhere; nothing but the scale is read.
template <int GROUP, typename S, typename E>
METAL_FUNC float2 of_group(S scales, E, size_t row, size_t width, size_t k) {
  const float scale = static_cast<float>(scales[row * (width / GROUP) + k / GROUP]);
  return float2(scale, -(scale * 128.0f));
}

template <int GROUP, int VALUES, typename S, typename E>
METAL_FUNC float2 of_lanes(S scales, E second, size_t row, size_t width, size_t k, bool inside, uint) {
  return inside ? of_group<GROUP>(scales, second, row, width, k) : float2(0, 0);
}
