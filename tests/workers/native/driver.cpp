// Run every kernel on the weights of standard input and write all results to standard output. There is
// no C library: what is compiled is what is tested.
#include "kernels.cpp"

static long call(long number, long a, long b, long c) {
#if defined(__x86_64__)
  long result;
  asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
#else
  register long x8 asm("x8") = number, x0 asm("x0") = a, x1 asm("x1") = b, x2 asm("x2") = c;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
#endif
}

#if defined(__x86_64__)
constexpr long READ = 0, WRITE = 1, EXIT = 60;
asm(".globl _start\n_start:\n    andq $-64, %rsp\n    call run_all\n");
#else
constexpr long READ = 63, WRITE = 64, EXIT = 93;
asm(".globl _start\n_start:\n    bl run_all\n");
#endif

// What the compiler calls by itself.
extern "C" __attribute__((no_builtin("memcpy"))) void *memcpy(void *to, const void *from, unsigned long size) {
  for (unsigned long i = 0; i < size; ++i) ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
  return to;
}
extern "C" __attribute__((no_builtin("memset"))) void *memset(void *to, int value, unsigned long size) {
  for (unsigned long i = 0; i < size; ++i) ((volatile u8 *)to)[i] = (u8)value;
  return to;
}

constexpr i64 COUNT = 1 << 16, WIDTH = 512;
static u16 weights[COUNT], rotated[COUNT], scales[COUNT], biases[COUNT];
static u32 codes[COUNT];
static u8 small_scales[COUNT];
static float signs[WIDTH], probes[WIDTH * 16], scratch[(WIDTH + PADDING) * 8], image[WIDTH * 16], probes_noise[WIDTH];
constexpr i64 SOME = 1 << 13;
static double careful[SOME / CHUNK][FORMATS];
static float known[KNOWN][COUNT / CHUNK];


// A weight of 64 rows that an encoder with error feedback codes.
constexpr i64 INPUTS = 256, OUTPUTS = 64;
static float columns[INPUTS * INPUTS], rows[OUTPUTS * OUTPUTS], diagonal[OUTPUTS], pull[INPUTS * INPUTS];
static float importance[INPUTS], links[OUTPUTS * OUTPUTS], turned[INPUTS * OUTPUTS], left[INPUTS * OUTPUTS];
static float grids[2][INPUTS / 16 * OUTPUTS], spans[2][INPUTS / SPAN * OUTPUTS], panels[4 * INPUTS * PANEL];
static u8 chosen[INPUTS * OUTPUTS];

static void put(const void *data, long size) {
  const char *from = (const char *)data;
  while (size > 0) {
    long done = call(WRITE, 1, (long)from, size);
    if (done <= 0) call(EXIT, 1, 0, 0);
    from += done;
    size -= done;
  }
}

static void run(int storage, i64 count) {
  for (int with_neighbours = 0; with_neighbours < 2; ++with_neighbours) {
    SweepResult result = {};
    bitbudget_sweep(weights, count, storage, 7, 7, with_neighbours, known[0], &result);
    put(&result, sizeof result);
    put(known, sizeof known);
  }
  __builtin_memset(careful, 0, sizeof careful);
  bitbudget_careful(weights, SOME, storage, 7, careful);
  put(careful, sizeof careful);
  for (int bits : BITS)
    for (int size = 32; size <= 128; size *= 2) {
      bitbudget_encode_minmax(weights, count / size, size, bits, storage, codes, scales, biases);
      put(codes, count * bits / 8);
      put(scales, count / size * 2);
      bitbudget_encode_careful(weights, count / size, size, bits, storage, codes, scales, biases);
      put(codes, count * bits / 8);
      put(scales, count / size * 2);
      put(biases, count / size * 2);
    }
  for (int mode = 0; mode < 3; ++mode) {
    int size = mode == NVFP4 ? 16 : 32;
    bitbudget_encode_floats(weights, count / size, mode, storage, 1, (u8 *)codes, small_scales);
    put(codes, count / 2);
    put(small_scales, count / size);
  }
  bitbudget_rotate(weights, count, storage, signs, WIDTH, 0, rotated);
  put(rotated, count * 2);
  double fourths = bitbudget_probe(weights, count / WIDTH, WIDTH, 1, 3, storage, probes, scratch, image);
  put(&fourths, sizeof fourths);
  put(image, sizeof image);
  double norm = bitbudget_squared_norm(probes, image, WIDTH);
  put(&norm, sizeof norm);
  bitbudget_columns(weights, count / WIDTH, WIDTH, 1, 3, storage, image, probes_noise);
  put(image, WIDTH * sizeof(float));
  put(probes_noise, sizeof probes_noise);
}

// Factors that fall off with the distance from the diagonal.
static void make_factors() {
  for (int i = 0; i < INPUTS; ++i) {
    importance[i] = 1.0f + i % 3;
    for (int j = 0; j < INPUTS; ++j) {
      columns[i * INPUTS + j] = 1.0f / (1 + (i < j ? j - i : i - j));
      pull[i * INPUTS + j] = j < i ? -0.25f / (i - j) : 0.0f;
    }
  }
  for (int i = 0; i < OUTPUTS; ++i) {
    diagonal[i] = 1.0f;
    for (int j = 0; j < OUTPUTS; ++j) {
      rows[i * OUTPUTS + j] = i == j ? 1.0f : 0.125f / (i < j ? j - i : i - j);
      links[i * OUTPUTS + j] = i / PANEL < j / PANEL ? -0.0625f / (j - i) : 0.0f;
    }
  }
  for (int i = 0; i < INPUTS; ++i)
    for (int j = 0; j < OUTPUTS; ++j) {
      u32 bits = (u32)weights[j * INPUTS + i] << 16;
      __builtin_memcpy(&turned[i * OUTPUTS + j], &bits, sizeof bits);
    }
}

static void run_coding(int layout, int storage, int bits, int group, bool coupled) {
  const Target to = {INPUTS, OUTPUTS, bits, group, layout, storage, chosen, grids[0], grids[1], spans[0], spans[1]};
  bitbudget_code_alone(&to, turned, 1, panels);
  put(chosen, sizeof chosen);
  put(grids, sizeof grids);
  bitbudget_feed_back(&to, turned, pull, importance, coupled ? links : nullptr, left, panels);
  put(chosen, sizeof chosen);
  put(left, sizeof left);
  const float *factors[3] = {columns, coupled ? rows : nullptr, diagonal};
  bitbudget_descend(&to, 1, factors, 2, left, panels);
  put(chosen, sizeof chosen);
  put(grids, sizeof grids);
  put(spans, sizeof spans);
}

extern "C" void run_all() {
  char *to = (char *)weights;
  long left = sizeof weights;
  while (left > 0) {
    long done = call(READ, 0, (long)to, left);
    if (done <= 0) call(EXIT, 1, 0, 0);
    to += done;
    left -= done;
  }
  for (int i = 0; i < WIDTH; ++i) signs[i] = i * 7 % 5 > 2 ? -1.0f : 1.0f;
  for (int i = 0; i < WIDTH * 16; ++i) probes[i] = i * 11 % 7 > 3 ? -1.0f : 1.0f;
  run(STORAGE_BF16, COUNT);
  run(STORAGE_F16, COUNT);
  run(STORAGE_F32, COUNT / 2);
  make_factors();
  for (int storage = STORAGE_BF16; storage <= STORAGE_F32; ++storage)
    for (int coupled = 0; coupled < 2; ++coupled)
      for (int group = 32; group <= 128; group *= 2) run_coding(AFFINE, storage, group == 32 ? 2 : 4, group, coupled);
  for (int coupled = 0; coupled < 2; ++coupled) {
    run_coding(TWO_LEVEL, STORAGE_BF16, 3, 16, coupled);
    run_coding(TWO_LEVEL, STORAGE_BF16, 5, 32, coupled);
    run_coding(ZERO_POINT, STORAGE_BF16, 4, 64, coupled);
    run_coding(SYMMETRIC, STORAGE_BF16, 8, 128, coupled);
  }
  call(EXIT, 0, 0, 0);
}
