// float32 matrix products on the AMX unit of x86-64 servers, each value in two bfloat16 terms (amx_tiles.h): what
// PyTorch calls the precision "high". Two to three times as fast as AVX-512 float32.
#pragma once
#include "amx_tiles.h"

extern "C" {
void *aligned_alloc(unsigned long, unsigned long);
void free(void *);
char *getenv(const char *);
int pthread_create(unsigned long *, const void *, void *(*)(void *), void *);
int pthread_join(unsigned long, void **);
}

// to (rows x columns) = or += left * right. `mirrored`: right is left transposed, so that only blocks on and above the
// diagonal are computed.
struct Product {
  i64 rows, columns, depths;
  Operand left, right;
  float *to;
  i64 stride;
  bool add, mirrored;
};

constexpr i64 STEPS_AT_ONCE = 16;            // of the depth: 32 rows of the left operand are 64 KiB then, near the core
constexpr i64 LEFT_FLOATS = 1 << 21;         // of the left operand that are packed at once: 8 MiB
constexpr i64 FEWEST_BLOCKS = 16;            // of rows at once, if there are as many: each lot packs the right operand
constexpr i64 FEW_ROWS = 128;                // up to here packing the right operand is most of the time
constexpr i64 COLUMNS_OF_FEW_ROWS = 128, COLUMNS_AT_ONCE = 512;
constexpr i64 FEWEST_OPERATIONS = 1 << 21;   // multiplications that are worth the unit
constexpr i64 OPERATIONS_PER_THREAD = 1 << 26;
constexpr int MOST_THREADS = 64;

// The block at (row, column), which may reach beyond the result's edge.
static AMX_CODE void add_to_result(const Product &p, i64 row, i64 column, const u16 *left, const u16 *right, i64 steps,
                                   bool add) {
  float *to = p.to + row * p.stride + column;
  const i64 rows = least(BLOCK, p.rows - row), columns = least(BLOCK, p.columns - column);
  if (rows == BLOCK && columns == BLOCK) return multiply_block(to, p.stride, left, right, steps, add);
  alignas(64) float whole[BLOCK * BLOCK] = {};
  if (add)
    for (i64 r = 0; r < rows; ++r)
      for (i64 c = 0; c < columns; ++c) whole[r * BLOCK + c] = to[r * p.stride + c];
  multiply_block(whole, BLOCK, left, right, steps, add);
  for (i64 r = 0; r < rows; ++r)
    for (i64 c = 0; c < columns; ++c) to[r * p.stride + c] = whole[r * BLOCK + c];
}

// Steps of the depth whose left operand is packed.
struct Depth {
  i64 first, steps;
};

// Add what these steps of the `depth` give to rows `first` to `end`, the left operand's packed at `packed_left`.
static AMX_CODE void multiply_rows(const Product &p, i64 first, i64 end, Depth depth, const u16 *packed_left,
                                   u16 *packed_right, i64 columns_at_once) {
  for (i64 column = p.mirrored ? first : 0; column < p.columns; column += columns_at_once) {
    const i64 column_end = least(column + columns_at_once, p.columns);
    for (i64 step = 0; step < depth.steps; step += STEPS_AT_ONCE) {
      const i64 steps = least(STEPS_AT_ONCE, depth.steps - step), from = depth.first + step;
      write_blocks(packed_right, p.right, true, column, column_end, from * DEPTH, steps, p.depths);
      for (i64 r = first; r < end; r += BLOCK)
        for (i64 c = column; c < column_end; c += BLOCK)
          if (!p.mirrored || c + BLOCK > r)
            add_to_result(p, r, c, packed_left + ((r - first) / BLOCK * depth.steps + step) * STEP_SIZE,
                          packed_right + (c - column) / BLOCK * steps * STEP_SIZE, steps, p.add || from > 0);
    }
  }
}

// How a product is cut up, and how much of it is packed at a time. Sums are taken in the same order in any case.
struct Plan {
  i64 blocks_at_once, steps_at_once, columns_at_once, left_size, right_size;

  i64 packed_size() const { return left_size + right_size; }
};

static Plan plan_of(const Product &p) {
  const i64 all_steps = ceil_div(p.depths, DEPTH), blocks = ceil_div(p.rows, BLOCK);
  const i64 in_steps = LEFT_FLOATS / (BLOCK * DEPTH);
  const i64 steps_at_once = least(all_steps, most(STEPS_AT_ONCE, in_steps / most(1, least(blocks, FEWEST_BLOCKS))));
  const i64 blocks_at_once = least(blocks, in_steps / steps_at_once);
  const i64 columns_at_once = p.rows > FEW_ROWS ? COLUMNS_AT_ONCE : COLUMNS_OF_FEW_ROWS;
  return {blocks_at_once, steps_at_once, columns_at_once, blocks_at_once * steps_at_once * STEP_SIZE,
          columns_at_once / BLOCK * least(STEPS_AT_ONCE, all_steps) * STEP_SIZE};
}

static AMX_CODE void multiply(const Product &p, const Plan &plan, u16 *packed) {
  const TileShapes shapes;
  const i64 all_steps = ceil_div(p.depths, DEPTH);
  _tile_loadconfig(&shapes);
  for (i64 row = 0; row < p.rows; row += plan.blocks_at_once * BLOCK) {
    const i64 end = least(row + plan.blocks_at_once * BLOCK, p.rows);
    for (i64 step = 0; step < all_steps; step += plan.steps_at_once) {
      const Depth depth = {step, least(plan.steps_at_once, all_steps - step)};
      write_blocks(packed, p.left, false, row, end, step * DEPTH, depth.steps, p.depths);
      multiply_rows(p, row, end, depth, packed, packed + plan.left_size, plan.columns_at_once);
    }
  }
  _tile_release();
}

struct Part {
  Product product;
  Plan plan;
  u16 *packed;
};
static void *multiply_part(void *given) {
  const Part &part = *(const Part *)given;
  multiply(part.product, part.plan, part.packed);
  return nullptr;
}

// The block at which share `index` of `count` begins. Of a mirrored product the first `f` of the blocks of rows are
// 1 - (1 - f)^2 of all that is computed.
static i64 first_block(i64 blocks, bool mirrored, int index, int count) {
  if (!mirrored) return blocks * index / count;
  const i64 rest = blocks * blocks * (count - index);
  i64 block = 0;
  for (; (blocks - block) * (blocks - block) * count > rest; ++block);
  return block;
}

// Whole blocks of rows, or of columns where there are more of them, from share `index` of `count`. Of a mirrored
// product they are rows from the diagonal on.
static Product part_of(const Product &p, int index, int count) {
  Product part = p;
  const bool by_rows = p.rows >= p.columns;
  const i64 lines = by_rows ? p.rows : p.columns, blocks = ceil_div(lines, BLOCK);
  const i64 first = least(first_block(blocks, p.mirrored, index, count) * BLOCK, lines);
  const i64 size = least(first_block(blocks, p.mirrored, index + 1, count) * BLOCK, lines) - first;
  Operand &operand = by_rows ? part.left : part.right;
  operand.at = operand.element(first, 0);
  part.to += first * (by_rows ? p.stride : 1);
  (by_rows ? part.rows : part.columns) = size;
  if (p.mirrored) {
    part.right.at = part.right.element(first, 0);
    part.to += first;
    part.columns -= first;
  }
  return part;
}

// The threads that BITBUDGET_MATMUL_THREADS gives; one where it is not set.
static int thread_limit() {
  const char *given = getenv("BITBUDGET_MATMUL_THREADS");
  i64 count = 0;
  for (; given && *given >= '0' && *given <= '9' && count < MOST_THREADS; ++given) count = 10 * count + (*given - '0');
  return (int)most(1, least(count, MOST_THREADS));
}

// Below the diagonal as above it, in blocks that stay near the core.
static void mirror(const Product &p) {
  for (i64 row = 0; row < p.rows; row += BLOCK)
    for (i64 column = 0; column <= row; column += BLOCK)
      for (i64 r = row; r < least(row + BLOCK, p.rows); ++r)
        for (i64 c = column; c < least(column + BLOCK, r); ++c) p.to[r * p.stride + c] = p.to[c * p.stride + r];
}

// Returns false, with nothing written, where there is no memory for the packed operands.
static bool multiply_in_threads(const Product &p) {
  const i64 worthwhile = p.rows * p.columns * p.depths / (p.mirrored ? 2 : 1) / OPERATIONS_PER_THREAD;
  const i64 lines = ceil_div(most(p.rows, p.columns), BLOCK);
  const int threads = (int)most(1, least(thread_limit(), least(worthwhile, lines)));
  Part part[MOST_THREADS];
  i64 all = 0;
  for (int t = 0; t < threads; ++t) {
    part[t].product = part_of(p, t, threads);
    part[t].plan = plan_of(part[t].product);
    all += part[t].plan.packed_size();
  }
  u16 *const packed = (u16 *)aligned_alloc(64, all * sizeof(u16));
  if (!packed) return false;
  unsigned long thread[MOST_THREADS];
  bool started[MOST_THREADS] = {};
  u16 *next = packed;
  for (int t = 0; t < threads; ++t) {
    part[t].packed = next;
    next += part[t].plan.packed_size();
    started[t] = t > 0 && pthread_create(&thread[t], nullptr, multiply_part, &part[t]) == 0;
  }
  for (int t = 0; t < threads; ++t)
    if (!started[t]) multiply_part(&part[t]);
  for (int t = 0; t < threads; ++t)
    if (started[t]) pthread_join(thread[t], nullptr);
  free(packed);
  if (p.mirrored) mirror(p);
  return true;
}
