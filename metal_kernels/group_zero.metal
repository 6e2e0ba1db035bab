// What scale and bias the group of column k of a row has: a weight is scale * code + bias. `of_group` is
// for any thread, `of_lanes` for all lanes of a SIMD group at once, each with its own k.
// bias = -s z; z are two to a byte along the row, the first in the low half.
template <int GROUP, typename S, typename E>
METAL_FUNC float2 of_group(S scales, E zero_points, size_t row, size_t width, size_t k) {
  const size_t groups = width / GROUP, group = k / GROUP;
  const float scale = static_cast<float>(scales[row * groups + group]);
  const uint pair = zero_points[row * ((groups + 1) / 2) + group / 2];
  return float2(scale, -(scale * static_cast<float>(pair >> (group % 2 * 4) & 15u)));
}

template <int GROUP, int VALUES, typename S, typename E>
METAL_FUNC float2 of_lanes(S scales, E second, size_t row, size_t width, size_t k, bool inside, uint) {
  return inside ? of_group<GROUP>(scales, second, row, width, k) : float2(0, 0);
}
