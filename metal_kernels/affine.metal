// Eight consecutive codes of BITS bits: BITS bytes of MLX's little-endian bit stream, read in the
// widest words that their alignment allows.
template <int BITS>
METAL_FUNC void unpack8(const device uint8_t* from, thread float* codes) {
  uint low = 0, high = 0;
  if (BITS == 4 || BITS == 8) {
    low = reinterpret_cast<const device uint*>(from)[0];
    high = BITS == 8 ? reinterpret_cast<const device uint*>(from)[1] : 0;
  } else if (BITS == 2 || BITS == 6) {
    const device ushort* words = reinterpret_cast<const device ushort*>(from);
    low = words[0];
    if (BITS == 6) {
      low |= static_cast<uint>(words[1]) << 16;
      high = words[2];
    }
  } else {
    low = from[0] | static_cast<uint>(from[1]) << 8 | static_cast<uint>(from[2]) << 16;
    if (BITS == 5) {
      low |= static_cast<uint>(from[3]) << 24;
      high = from[4];
    }
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++) {
    const int at = i * BITS;
    uint code = at < 32 ? low >> (at & 31) : high >> (at & 31);
    if (at < 32 && at + BITS > 32) code |= high << (32 - at);
    codes[i] = static_cast<float>(code & ((1u << BITS) - 1u));
  }
}
