// Whether this process may compute on an AMX unit.
#pragma once

extern "C" {
char *getenv(const char *);
long syscall(long, ...);
}

struct Cpuid {
  unsigned a, b, c, d;
};
static inline Cpuid cpuid(unsigned leaf, unsigned part) {
  Cpuid x;
  asm volatile("cpuid" : "=a"(x.a), "=b"(x.b), "=c"(x.c), "=d"(x.d) : "a"(leaf), "c"(part));
  return x;
}
static inline bool has_bits(unsigned value, unsigned bits) { return (value & bits) == bits; }

static inline bool is_same(const char *a, const char *b) {
  for (; *a && *a == *b; ++a) ++b;
  return *a == *b;
}

// The user may want float32 throughout, older processors lack the unit, and the kernel is asked for its state.
static bool ask_for_unit() {
  const char *precision = getenv("BITBUDGET_MATMUL_PRECISION");
  if (precision && is_same(precision, "highest")) return false;
  constexpr unsigned AVX512_F = 1u << 16, DQ = 1u << 17, BW = 1u << 30, VL = 1u << 31, AVX512_BF16 = 1u << 5;
  constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;
  if (cpuid(0, 0).a < 7) return false;
  const Cpuid features = cpuid(7, 0);
  if (!has_bits(features.b, AVX512_F | DQ | BW | VL) || !has_bits(features.d, AMX_BF16 | AMX_TILE)) return false;
  if (!has_bits(cpuid(7, 1).a, AVX512_BF16)) return false;
  constexpr long ARCH_PRCTL = 158, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// Threads that ask for the first time at once find the same.
static bool has_unit() {
  static int known;
  int answer = __atomic_load_n(&known, __ATOMIC_RELAXED);
  if (!answer) __atomic_store_n(&known, answer = ask_for_unit() ? 1 : 2, __ATOMIC_RELAXED);
  return answer == 1;
}
