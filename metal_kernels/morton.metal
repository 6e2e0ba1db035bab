// The tile that a threadgroup takes in Morton order, of `across` x `down` tiles rounded up to powers
// of two: bits of its index go to both axes by turns, the lowest first, and where one axis has all
// of its bits, to the other. Threadgroups that run together thus share rows of both factors.
METAL_FUNC uint2 morton_tile(uint index, uint across, uint down) {
  uint2 tile = uint2(0, 0);
  for (uint bit = 1; bit < across || bit < down; bit *= 2) {
    if (bit < across) {
      tile.x += index % 2 * bit;
      index /= 2;
    }
    if (bit < down) {
      tile.y += index % 2 * bit;
      index /= 2;
    }
  }
  return tile;
}
