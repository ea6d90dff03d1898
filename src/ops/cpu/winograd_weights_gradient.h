// The last step of the weight gradient: sums of transformed products -> (out, in, 5, 5, 5).
#pragma once

#include "winograd_weights_plan.h"

namespace vnet {

// dweight[o][i][125] of 16 x 16 channels from `slots` sets of sums [point][tap along depth][in 16][out 16], which lie
// slot_stride apart and are added in order. `dweight` points at the first of the output and input channels.
template <class Plan>
void gradient_block(const float* sums, int64_t slots, int64_t slot_stride, int64_t in_channels, float* dweight) {
  constexpr int kHeight = Plan::kHeight, kWidth = Plan::kWidth, kArea = kTaps * kTaps, kVolume = kArea * kTaps;
  constexpr int64_t kSquare = Plan::kSquare;
  alignas(64) float taps[kLanes * kVolume * kLanes];  // [in 16][tap][out 16]
  for (int d = 0; d < kTaps; ++d) {
    for (int i = 0; i < kLanes; ++i) {
      const float* from = sums + d * kSquare + i * kLanes;
      f16 rows[kTaps][kWidth];
#pragma GCC unroll 8
      for (int w = 0; w < kWidth; ++w) {
        f16 column[kHeight], result[kTaps];
#pragma GCC unroll 8
        for (int h = 0; h < kHeight; ++h) {
          const float* p = from + (width_position<kWidth>(w) * kHeight + h) * kTaps * kSquare;
          column[h] = load(p);
          for (int64_t slot = 1; slot < slots; ++slot) column[h] = column[h] + load(p + slot * slot_stride);
        }
        transform_output<kHeight, kTaps>(column, result);
#pragma GCC unroll 8
        for (int k = 0; k < kTaps; ++k) rows[k][w] = result[k];
      }
      float* to = taps + (i * kVolume + d * kArea) * kLanes;
#pragma GCC unroll 8
      for (int k = 0; k < kTaps; ++k) {
        f16 result[kTaps];
        transform_output<kWidth, kTaps>(rows[k], result);
#pragma GCC unroll 8
        for (int j = 0; j < kTaps; ++j) store(to + (k * kTaps + j) * kLanes, result[j]);
      }
    }
  }
  // 125 taps are seven squares of 16 and a last one that overlaps them.
  for (int i = 0; i < kLanes; ++i) {
    for (int square = 0; square < 8; ++square) {
      int first = std::min(square * kLanes, kVolume - kLanes);
      const float* from = taps + (i * kVolume + first) * kLanes;
      f16 x[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) x[k] = load(from + k * kLanes);
      transpose(x);
      float* to = dweight + i * kVolume + first;
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) store(to + k * in_channels * kVolume, x[k]);
    }
  }
}

}  // namespace vnet
