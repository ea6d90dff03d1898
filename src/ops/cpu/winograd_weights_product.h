// Products of transformed inputs and output gradients, summed over tiles, and the transform of the sums over depth.
#pragma once

#include "winograd_weights_transform.h"

namespace vnet {

// sums[col][row][16] = over tiles: x[tile][row] * dy[col][tile][16], for Rows of the 16 input channels.
template <int Rows, int Cols>
VNET_INLINE void multiply_rows(const float* x, const float* dy, int64_t dy_block, int64_t tiles, float* sums) {
  f16 total[Rows][Cols];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < Cols; ++c) total[r][c] = zero();
  }
  for (int64_t t = 0; t < tiles; ++t) {
    f16 y[Cols];
#pragma GCC unroll 4
    for (int c = 0; c < Cols; ++c) y[c] = load(dy + c * dy_block + t * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      f16 value = set1(x[t * kLanes + r]);
#pragma GCC unroll 4
      for (int c = 0; c < Cols; ++c) total[r][c] = fma(value, y[c], total[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < Cols; ++c) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) store(sums + (c * kLanes + r) * kLanes, total[r][c]);
  }
}

// All 16 rows in register tiles that fit 32 zmm registers, or 16 ymm registers with two for each f16.
template <int Cols>
VNET_INLINE void multiply(const float* x, const float* dy, int64_t dy_block, int64_t tiles, float* sums) {
#if defined(__AVX512F__)
  constexpr int kRows = Cols == 1 ? 16 : 8;
  for (int r = 0; r < kLanes; r += kRows) multiply_rows<kRows, Cols>(x + r, dy, dy_block, tiles, sums + r * kLanes);
#else
  for (int c = 0; c < Cols; ++c) {
    for (int r = 0; r < kLanes; r += 4) {
      multiply_rows<4, 1>(x + r, dy + c * dy_block, 0, tiles, sums + (c * kLanes + r) * kLanes);
    }
  }
#endif
}

// For one point of the plane: the sums of a block of input channels and Cols blocks of output channels over `tiles`
// tiles at all depth points, transformed to the five taps along depth: out + c * out_block, [tap][in 16][out 16].
template <int Depth, int Cols, bool Add>
void product_block(const float* x, int64_t x_step, const float* dy, int64_t dy_step, int64_t dy_block, int64_t tiles,
                   float* out, int64_t out_block) {
  constexpr int kSquare = kLanes * kLanes;
  alignas(64) float sums[Depth * Cols * kSquare];
  for (int k = 0; k < Depth; ++k) {
    // The results' lines, for which the next loop would otherwise wait.
    constexpr int kLines = (kTaps * kLanes + Depth - 1) / Depth;
    for (int c = 0; c < Cols; ++c) {
      for (int i = 0; i < kLines; ++i) prefetch_write(out + c * out_block + (k * kLines + i) * kLanes);
    }
    multiply<Cols>(x + k * x_step, dy + k * dy_step, dy_block, tiles, sums + k * Cols * kSquare);
  }
  for (int c = 0; c < Cols; ++c) {
    for (int r = 0; r < kLanes; ++r) {
      f16 at[Depth], tap[kTaps];
#pragma GCC unroll 8
      for (int k = 0; k < Depth; ++k) at[k] = load(sums + (k * Cols + c) * kSquare + r * kLanes);
      transform_output<Depth, kTaps>(at, tap);
      float* to = out + c * out_block + r * kLanes;
#pragma GCC unroll 8
      for (int d = 0; d < kTaps; ++d) store(to + d * kSquare, Add ? tap[d] + load(to + d * kSquare) : tap[d]);
    }
  }
}

template <int Depth, int Cols>
VNET_INLINE void product_block(const float* x, int64_t x_step, const float* dy, int64_t dy_step, int64_t dy_block,
                               int64_t tiles, float* out, int64_t out_block, bool add) {
  if (add) {
    product_block<Depth, Cols, true>(x, x_step, dy, dy_step, dy_block, tiles, out, out_block);
  } else {
    product_block<Depth, Cols, false>(x, x_step, dy, dy_step, dy_block, tiles, out, out_block);
  }
}

}  // namespace vnet
