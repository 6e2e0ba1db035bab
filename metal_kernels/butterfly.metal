// y <- B x on blocks of 32, B the Hadamard matrix of +-1 without its scale, in float. Each lane holds
// VALUES consecutive values, 32 / VALUES neighbouring lanes hold a block: log2(VALUES) stages stay
// in registers, the others exchange values between lanes.
template <int VALUES>
METAL_FUNC void butterfly32(thread float* x, uint lane) {
#pragma clang loop unroll(full)
  for (int step = 1; step < VALUES; step <<= 1) {
#pragma clang loop unroll(full)
    for (int i = 0; i < VALUES; i++) {
      if ((i & step) == 0) {
        const float a = x[i], b = x[i + step];
        x[i] = a + b;
        x[i + step] = a - b;
      }
    }
  }
#pragma clang loop unroll(full)
  for (ushort mask = 1; mask < 32 / VALUES; mask <<= 1) {
#pragma clang loop unroll(full)
    for (int i = 0; i < VALUES; i++) {
      const float other = simd_shuffle_xor(x[i], mask);
      x[i] = (lane & mask) ? other - x[i] : x[i] + other;
    }
  }
}
