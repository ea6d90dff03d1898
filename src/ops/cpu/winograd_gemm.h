// The small matrix products of a Winograd convolution: tiles x input channels times input x output channels, once for
// each point of the transform.
#pragma once

#include <utility>

#include "winograd_kernel_transform.h"

namespace vnet {

// Register tiles: Rows tiles by Panel blocks of output channels are summed in registers (32 zmm; 16 ymm, of which a
// block takes two), so each weight vector that is loaded serves Rows products.
#if defined(__AVX512F__)
constexpr int kWidePanel = 2;
constexpr int kWideRows = 14;
constexpr int kNarrowRows = 16;
#else
constexpr int kWidePanel = 1;
constexpr int kWideRows = 6;
constexpr int kNarrowRows = 6;
#endif

inline int kernel_panel(int64_t outputs) { return outputs / kLanes % kWidePanel ? 1 : kWidePanel; }

// product[p][row][16] = sum over channels of tiles[channel / 16][row][channel % 16] * weights[channel][p][16].
// Strides (of channel blocks) in floats. `ahead` is brought into the caches: `ahead_lines` lines a channel block.
template <int Rows, int Panel>
void multiply_tile(const float* tiles, int64_t tile_stride, const float* weights, float* product,
                   int64_t product_stride, int64_t blocks, const float* ahead, int64_t ahead_lines) {
  f16 total[Rows][Panel];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 2
    for (int p = 0; p < Panel; ++p) total[row][p] = zero();
  }
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t line = 0; line < ahead_lines; ++line) __builtin_prefetch(ahead + line * kLanes);
    ahead += ahead_lines * kLanes;
#pragma GCC unroll 2
    for (int channel = 0; channel < kLanes; ++channel) {
      f16 column[Panel];
#pragma GCC unroll 2
      for (int p = 0; p < Panel; ++p) column[p] = load(weights + p * kLanes);
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row) {
        f16 value = set1(tiles[row * kLanes + channel]);
#pragma GCC unroll 2
        for (int p = 0; p < Panel; ++p) total[row][p] = fma(value, column[p], total[row][p]);
      }
      weights += Panel * kLanes;
    }
    tiles += tile_stride;
  }
#pragma GCC unroll 2
  for (int p = 0; p < Panel; ++p) {
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) store(product + p * product_stride + row * kLanes, total[row][p]);
  }
}

using MultiplyTile = void (*)(const float*, int64_t, const float*, float*, int64_t, int64_t, const float*, int64_t);

template <int Panel, int... Rows>
MultiplyTile tile_product(int rows, std::integer_sequence<int, Rows...>) {
  static constexpr MultiplyTile table[] = {multiply_tile<Rows + 1, Panel>...};
  return table[rows - 1];
}

// Cuts any number of rows into register tiles as even as possible.
class RowSplit {
 public:
  RowSplit(int64_t rows, int panel) : rows_(rows), panel_(panel) {
    int64_t most = panel > 1 ? kWideRows : kNarrowRows;
    parts_ = (rows + most - 1) / most;
  }
  int64_t parts() const { return parts_; }

  // All rows against one panel of weights.
  void multiply(const float* tiles, int64_t tile_stride, const float* weights, float* product, int64_t product_stride,
                int64_t blocks, const float* ahead, int64_t ahead_lines) const {
    for (int64_t part = 0; part < parts_; ++part) {
      int64_t first = rows_ * part / parts_, last = rows_ * (part + 1) / parts_;
      tile(static_cast<int>(last - first))(tiles + first * kLanes, tile_stride, weights, product + first * kLanes,
                                           product_stride, blocks, ahead + part * blocks * ahead_lines * kLanes,
                                           ahead_lines);
    }
  }

 private:
  MultiplyTile tile(int rows) const {
    if (kWidePanel > 1 && panel_ > 1) {
      return tile_product<kWidePanel>(rows, std::make_integer_sequence<int, kWideRows>());
    }
    return tile_product<1>(rows, std::make_integer_sequence<int, kNarrowRows>());
  }

  int64_t rows_, parts_;
  int panel_;
};

}  // namespace vnet
