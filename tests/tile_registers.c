/* The tile registers of AMX in C, for machines that have none: what tests link instead. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REGISTERS 8
#define ROWS 16
#define ROW_BYTES 64

static _Thread_local struct {
  int configured;
  int rows[REGISTERS], row_bytes[REGISTERS];
  uint8_t data[REGISTERS][ROWS][ROW_BYTES];
} state;

static void check(int is_fine, const char *what) {
  if (!is_fine) {
    fprintf(stderr, "tile registers: %s\n", what);
    abort();
  }
}

int wq_tile_configure(const uint8_t *config) {
  check(config[0] == 1, "the palette is not 1");
  for (int i = 1; i < 16; ++i) check(config[i] == 0, "a reserved byte is not 0");
  memset(&state, 0, sizeof state);
  state.configured = 1;
  for (int i = 0; i < REGISTERS; ++i) {
    state.row_bytes[i] = config[16 + 2 * i] | config[17 + 2 * i] << 8;
    state.rows[i] = config[48 + i];
    check(state.rows[i] <= ROWS && state.row_bytes[i] <= ROW_BYTES, "a tile is too large");
    check((state.rows[i] == 0) == (state.row_bytes[i] == 0), "a tile has rows of no bytes");
  }
  return 0;
}

int wq_tile_release(void) {
  check(state.configured, "released, but not configured");
  memset(&state, 0, sizeof state);
  return 0;
}

static void check_used(int tile) {
  check(state.configured && state.rows[tile] > 0, "a register is used without a configuration");
}

int wq_tile_load(int tile, const uint8_t *from, int64_t stride) {
  check_used(tile);
  memset(state.data[tile], 0, sizeof state.data[tile]);
  for (int row = 0; row < state.rows[tile]; ++row)
    memcpy(state.data[tile][row], from + row * stride, state.row_bytes[tile]);
  return 0;
}

int wq_tile_store(int tile, uint8_t *to, int64_t stride) {
  check_used(tile);
  for (int row = 0; row < state.rows[tile]; ++row)
    memcpy(to + row * stride, state.data[tile][row], state.row_bytes[tile]);
  return 0;
}

int wq_tile_zero(int tile) {
  check_used(tile);
  memset(state.data[tile], 0, sizeof state.data[tile]);
  return 0;
}

static void check_shapes(int sums, int activations, int weights) {
  check_used(sums), check_used(activations), check_used(weights);
  check(state.rows[sums] == state.rows[activations], "rows of sums and activations differ");
  check(state.row_bytes[sums] == state.row_bytes[weights], "columns of sums and weights differ");
  check(state.row_bytes[activations] == 4 * state.rows[weights], "the inner extents differ");
}

static float bfloat16(const uint8_t *from) {
  uint32_t bits = (uint32_t)(from[0] | from[1] << 8) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

/* bfloat16 by bfloat16, as tdpbf16ps: even and odd products are summed apart, then all. */
int wq_tile_multiply_bfloat16(int sums, int activations, int weights) {
  check_shapes(sums, activations, weights);
  for (int row = 0; row < state.rows[sums]; ++row)
    for (int column = 0; column < state.row_bytes[sums] / 4; ++column) {
      float sum, part[2] = {0, 0};
      memcpy(&sum, &state.data[sums][row][4 * column], 4);
      for (int k = 0; k < state.row_bytes[activations] / 2; ++k)
        part[k % 2] += bfloat16(&state.data[activations][row][2 * k]) *
                       bfloat16(&state.data[weights][k / 2][4 * column + 2 * (k % 2)]);
      sum += part[0] + part[1];
      memcpy(&state.data[sums][row][4 * column], &sum, 4);
    }
  return 0;
}

/* u8 by s8, as tdpbusd. */
int wq_tile_multiply(int sums, int activations, int weights) {
  check_shapes(sums, activations, weights);
  for (int row = 0; row < state.rows[sums]; ++row)
    for (int column = 0; column < state.row_bytes[sums] / 4; ++column) {
      int32_t sum;
      memcpy(&sum, &state.data[sums][row][4 * column], 4);
      for (int k = 0; k < state.row_bytes[activations]; ++k)
        sum += state.data[activations][row][k] *
               (int8_t)state.data[weights][k / 4][4 * column + k % 4];
      memcpy(&state.data[sums][row][4 * column], &sum, 4);
    }
  return 0;
}
