// Squared errors of the min-max affine codes of a group and of the microscaling formats, each lane
// holding four values of the group.

// Codes as mx.quantize chooses them, error against the scale and bias as stored in T.
template <typename T>
METAL_FUNC float affine_error(const thread float* w, float least, float greatest, float levels) {
  const bool negative = metal::abs(least) > metal::abs(greatest);
  const float edge = negative ? least : greatest;
  float scale = metal::max((greatest - least) / levels, 1e-7f);
  scale = negative ? scale : -scale;
  float bias = 0;
  const float steps = metal::rint(edge / scale);
  if (steps != 0) {
    scale = edge / steps;
    bias = edge;
  }
  const float stored_scale = static_cast<float>(static_cast<T>(scale));
  const float stored_bias = static_cast<float>(static_cast<T>(bias));
  float error = 0;
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    const float code = metal::clamp(metal::rint((w[i] - bias) / scale), 0.0f, levels);
    const float difference = stored_scale * code + stored_bias - w[i];
    error += difference * difference;
  }
  return error;
}

// The nearest value of a float format with MANTISSA bits, ties to even.
template <int MANTISSA, int LEAST_EXPONENT>
METAL_FUNC float round_to(float x, float largest) {
  const float magnitude = metal::min(metal::abs(x), largest);
  const int exponent =
      metal::max(static_cast<int>(as_type<uint>(magnitude) >> 23) - 127, LEAST_EXPONENT);
  const float step = as_type<float>(static_cast<uint>(exponent - MANTISSA + 127) << 23);
  const float rounded = metal::rint(magnitude / step) * step;
  return x < 0 ? -rounded : rounded;
}

template <int MANTISSA, int LEAST_EXPONENT>
METAL_FUNC float float_error(const thread float* w, float scale, float largest) {
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  float error = 0;
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    const float value = round_to<MANTISSA, LEAST_EXPONENT>(w[i] * inverse, largest) * scale;
    error += (value - w[i]) * (value - w[i]);
  }
  return error;
}

// The least power of two that is not below x.
METAL_FUNC float power_of_two_above(float x) {
  const uint bits = as_type<uint>(x);
  const uint exponent = (bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1u : 0u);
  return as_type<float>(metal::clamp(exponent, 1u, 254u) << 23);
}
