// Eight consecutive codes of BITS bits: BITS bytes of MLX's little-endian bit stream, read in the
// widest words that their alignment allows.
template <int BITS>
METAL_FUNC uint2 packed8(const device uint8_t* from) {
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
  return uint2(low, high);
}

// The i-th of the codes that packed8 read.
template <int BITS>
METAL_FUNC uint code_of(uint2 packed, int i) {
  const int at = i * BITS;
  uint code = at < 32 ? packed.x >> (at & 31) : packed.y >> (at & 31);
  if (at < 32 && at + BITS > 32) code |= packed.y << (32 - at);
  return code & ((1u << BITS) - 1u);
}

template <int BITS>
METAL_FUNC void unpack8(const device uint8_t* from, thread float* codes) {
  const uint2 packed = packed8<BITS>(from);
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++) {
    codes[i] = static_cast<float>(code_of<BITS>(packed, i));
  }
}
