// What scale and bias the group of column k of a row has: a weight is scale * code + bias. `of_group` is
// for any thread, `of_lanes` for all lanes of a SIMD group at once, each with its own k.
// A byte of the group holds c and m, D and M belong to 256 columns: scale = D c, bias = -M m.
METAL_FUNC float2 two_level(uint small, float step, float low) {
  return float2(step * static_cast<float>(small & 15u), -(low * static_cast<float>(small >> 4)));
}

template <int GROUP, typename S, typename E>
METAL_FUNC float2 of_group(S scales, E spans, size_t row, size_t width, size_t k) {
  const size_t span = (row * ((width + 255) / 256) + k / 256) * 2;
  return two_level(scales[row * (width / GROUP) + k / GROUP], static_cast<float>(spans[span]),
                   static_cast<float>(spans[span + 1]));
}

// The first lane of a span reads D and M, the first of a group its byte: none is read twice.
template <int GROUP, int VALUES, typename S, typename E>
METAL_FUNC float2 of_lanes(S scales, E spans, size_t row, size_t width, size_t k, bool inside, uint lane) {
  constexpr uint SPAN_LANES = 256 / VALUES;
  constexpr uint GROUP_LANES = GROUP > VALUES ? GROUP / VALUES : 1;
  const ushort span_lane = static_cast<ushort>(lane / SPAN_LANES * SPAN_LANES);
  const ushort group_lane = static_cast<ushort>(lane / GROUP_LANES * GROUP_LANES);
  float step = 0, low = 0;
  uint small = 0;
  if (inside && lane == span_lane) {
    const size_t span = (row * ((width + 255) / 256) + k / 256) * 2;
    step = static_cast<float>(spans[span]);
    low = static_cast<float>(spans[span + 1]);
  }
  if (inside && lane == group_lane) {
    small = scales[row * (width / GROUP) + k / GROUP];
  }
  step = simd_shuffle(step, span_lane);
  low = simd_shuffle(low, span_lane);
  small = simd_shuffle(small, group_lane);
  return two_level(small, step, low);
}
