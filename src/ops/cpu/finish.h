// What happens to a computed value on its way to memory, in registers: act2(act(scale * y + shift) + residual), with
// `broadcast` (one channel added to all) beside the residual; Finish in kernels.h says what null pointers mean.
#pragma once

#include "kernels.h"

namespace vnet {

// ELU with alpha 1: x above 0, e^x - 1 elsewhere; NaN stays NaN.
VNET_INLINE f16 elu(f16 x) { return where_positive(x, x, exp(x) - set1(1.0f)); }

// The finish of one block of sixteen channels of one sample. `voxel` counts within the sample's volume.
template <class T>
struct FinishBlock {
  f16 scale, shift, slope, slope2;
  const T* residual;       // of this block, or null
  const float* broadcast;  // of this sample, or null
  Act act, act2;
  bool scaled, shifted;

  // `shape` is the output's; residual_blocks: channel blocks a sample of the residual has, 0: as the output.
  FinishBlock(const Finish<T>& finish, Shape shape, int64_t sample, int64_t block, int64_t residual_blocks = 0)
      : scale(set1(1.0f)), shift(zero()), slope(zero()), slope2(zero()), residual(nullptr), broadcast(nullptr),
        act(finish.act), act2(finish.act2), scaled(finish.scale != nullptr), shifted(finish.shift != nullptr) {
    int64_t channel = block * kLanes;
    if (scaled) scale = load(finish.scale + channel);
    if (shifted) shift = load(finish.shift + channel);
    if (act == Act::prelu) slope = load(finish.slope + channel);
    if (act2 == Act::prelu) slope2 = load(finish.slope2 + channel);
    if (residual_blocks == 0) residual_blocks = shape.blocks();
    if (finish.residual) {
      residual = finish.residual + (sample * residual_blocks + block) * shape.voxels() * kLanes;
    }
    if (finish.broadcast) broadcast = finish.broadcast + sample * shape.voxels();
  }

  // The values of Count voxels that follow one another, in place.
  template <int Count>
  VNET_INLINE void apply(f16* y, int64_t voxel) const {
    if (scaled) {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) y[k] = fma(scale, y[k], shift);
    } else if (shifted) {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) y[k] = y[k] + shift;
    }
    activate<Count>(act, slope, y);
    if (residual) {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) y[k] = y[k] + load(residual + (voxel + k) * kLanes);
    }
    if (broadcast) {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) y[k] = y[k] + set1(broadcast[voxel + k]);
    }
    activate<Count>(act2, slope2, y);
  }

  VNET_INLINE f16 apply(f16 y, int64_t voxel) const {
    apply<1>(&y, voxel);
    return y;
  }

 private:
  template <int Count>
  static VNET_INLINE void activate(Act kind, f16 slopes, f16* y) {
    if (kind == Act::elu) {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) y[k] = elu(y[k]);
    } else if (kind == Act::prelu) {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) y[k] = where_positive(y[k], y[k], slopes * y[k]);
    }
  }
};

}  // namespace vnet
