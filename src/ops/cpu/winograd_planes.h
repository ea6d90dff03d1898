// The two-dimensional part of the tiles' transforms: planes (h, w) of a tile on their way in and out.
//
// Tiles that follow one another along depth overlap by four planes. Each plane is transformed over h and w once, for
// both, and the depth transform combines AlphaD of them.
#pragma once

#include <cstring>

#include "finish.h"
#include "winograd_tile.h"

namespace vnet {

// Reads the AlphaH x AlphaW voxels of plane `d` at (h, w) of one channel block, zeros outside the volume, and writes
// their transform, [AlphaH * AlphaW][16]. The plane that is `ahead` elements further on is brought into the caches:
// rows are too short for the processor to see the pattern, and a plane's arithmetic hides the latency.
template <int AlphaH, int AlphaW, class T>
VNET_INLINE void transform_plane(const T* block, Shape shape, int64_t d, int64_t h, int64_t w, int64_t ahead,
                                 float* out) {
  if (d < 0 || d >= shape.d) {
    std::memset(out, 0, sizeof(float) * AlphaH * AlphaW * kLanes);
    return;
  }
  bool inside = w >= 0 && w + AlphaW <= shape.w;
  for (int row = 0; row < AlphaH; ++row) {
    float* to = out + row * AlphaW * kLanes;
    if (h + row < 0 || h + row >= shape.h) {
      std::memset(to, 0, sizeof(float) * AlphaW * kLanes);
      continue;
    }
    const T* from = block + ((d * shape.h + h + row) * shape.w + w) * kLanes;
    f16 x[AlphaW];
#pragma GCC unroll 8
    for (int k = 0; k < AlphaW; k += sizeof(float) / sizeof(T)) __builtin_prefetch(from + ahead + k * kLanes);
    if (inside) {
#pragma GCC unroll 8
      for (int k = 0; k < AlphaW; ++k) x[k] = load(from + k * kLanes);
    } else {
#pragma GCC unroll 8
      for (int k = 0; k < AlphaW; ++k) x[k] = w + k >= 0 && w + k < shape.w ? load(from + k * kLanes) : zero();
    }
    transform_input<AlphaW>(x, x);
#pragma GCC unroll 8
    for (int k = 0; k < AlphaW; ++k) store(to + k * kLanes, x[k]);
  }
  for (int column = 0; column < AlphaW; ++column) {
    f16 x[AlphaH];
#pragma GCC unroll 8
    for (int k = 0; k < AlphaH; ++k) x[k] = load(out + (k * AlphaW + column) * kLanes);
    transform_input<AlphaH>(x, x);
#pragma GCC unroll 8
    for (int k = 0; k < AlphaH; ++k) store(out + (k * AlphaW + column) * kLanes, x[k]);
  }
}

// Where the planes of a channel block go, and the sums over what went there.
template <class T>
struct PlaneSink {
  T* block;
  Shape shape;
  FinishBlock<T> finish;
  bool streamed;      // past the caches; `block` is aligned then
  double* sums;       // of v at [0, 16) and of v^2 from square_offset on; null if not wanted
  int64_t square_offset;

  // Inverse transform of [AlphaH * AlphaW][16] to plane `d` at (h, w), as far as it is within the volume.
  template <int AlphaH, int AlphaW>
  VNET_INLINE void plane(const float* in, int64_t d, int64_t h, int64_t w) {
    constexpr int kHigh = AlphaH - kTaps + 1, kWide = AlphaW - kTaps + 1;
    if (finish.residual) {
      // Of the next plane; see transform_plane.
      const T* next = finish.residual + (((d + 1) * shape.h + h) * shape.w + w) * kLanes;
      for (int row = 0; row < kHigh; ++row) {
        for (int k = 0; k < kWide; ++k) __builtin_prefetch(next + (row * shape.w + k) * kLanes);
      }
    }
    alignas(64) float rows[kHigh * AlphaW * kLanes];
    for (int column = 0; column < AlphaW; ++column) {
      f16 x[AlphaH], y[kHigh];
#pragma GCC unroll 8
      for (int k = 0; k < AlphaH; ++k) x[k] = load(in + (k * AlphaW + column) * kLanes);
      transform_output<AlphaH, kHigh>(x, y);
#pragma GCC unroll 8
      for (int k = 0; k < kHigh; ++k) store(rows + (k * AlphaW + column) * kLanes, y[k]);
    }
    int64_t high = std::min<int64_t>(kHigh, shape.h - h), wide = std::min<int64_t>(kWide, shape.w - w);
    f16 total = zero(), squares = zero();
    for (int64_t row = 0; row < high; ++row) {
      f16 x[AlphaW], y[kWide];
#pragma GCC unroll 8
      for (int k = 0; k < AlphaW; ++k) x[k] = load(rows + (row * AlphaW + k) * kLanes);
      transform_output<AlphaW, kWide>(x, y);
      int64_t voxel = (d * shape.h + h + row) * shape.w + w;
      if (wide == kWide) {
        put<kWide>(y, voxel, &total, &squares);
      } else {
#pragma GCC unroll 8
        for (int k = 0; k < kWide; ++k) {
          if (k < wide) put<1>(y + k, voxel + k, &total, &squares);
        }
      }
    }
    if (sums) {
      add(total, sums);
      add(squares, sums + square_offset);
    }
  }

 private:
  template <int Count>
  VNET_INLINE void put(f16* y, int64_t voxel, f16* total, f16* squares) {
    finish.template apply<Count>(y, voxel);
    if (sums) {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) {
        *total = *total + y[k];
        *squares = fma(y[k], y[k], *squares);
      }
    }
    T* to = block + voxel * kLanes;
    if (streamed) {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) stream(to + k * kLanes, y[k]);
    } else {
#pragma GCC unroll 8
      for (int k = 0; k < Count; ++k) store(to + k * kLanes, y[k]);
    }
  }

  static VNET_INLINE void add(f16 values, double* to) {
    float lanes[kLanes];
    store(lanes, values);
    for (int lane = 0; lane < kLanes; ++lane) to[lane] += static_cast<double>(lanes[lane]);
  }
};

}  // namespace vnet
