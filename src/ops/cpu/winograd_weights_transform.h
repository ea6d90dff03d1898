// The forward transforms of the weight gradient: planes over height and width, then columns over depth.
#pragma once

#include "winograd_weights_plan.h"

namespace vnet {

VNET_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
VNET_INLINE void prefetch_write(const void* p) { __builtin_prefetch(p, 1, 3); }

// A plane of zeros: outside of the volume.
template <int Points>
VNET_INLINE void clear_plane(float* out, int64_t stride) {
  for (int point = 0; point < Points; ++point) store(out + point * stride, zero());
}

// The positions [First, First + Count) of B^T (window) B, for the Height x Width window at (top, left), which may stick
// out of the volume, of one channel block's plane [h][w][16]. Point (i, j) goes to
// out + ((j - First) * Height + i) * stride. `ahead` is where the plane that is needed next lies relative to this one,
// to fetch it in time.
template <int Height, int Width, int First, int Count, class T>
VNET_INLINE void input_plane(const T* plane, int64_t h, int64_t w, int64_t top, int64_t left, int64_t ahead, float* out,
                             int64_t stride) {
  alignas(64) float rows[Height * Count * kLanes];
  bool inside = left >= 0 && left + Width <= w;
  for (int i = 0; i < Height; ++i) {
    float* row = rows + i * Count * kLanes;
    f16 x[Width];
    if (top + i < 0 || top + i >= h) {
#pragma GCC unroll 8
      for (int j = 0; j < Count; ++j) store(row + j * kLanes, zero());
      continue;
    }
    const T* from = plane + ((top + i) * w + left) * kLanes;
    if (inside) {
#pragma GCC unroll 8
      for (int j = 0; j < Width; ++j) {
        x[j] = load(from + j * kLanes);
        if (sizeof(T) == 4 || j % 2 == 0) prefetch(from + ahead + j * kLanes);
      }
    } else {
#pragma GCC unroll 8
      for (int j = 0; j < Width; ++j) x[j] = left + j >= 0 && left + j < w ? load(from + j * kLanes) : zero();
    }
    transform_input<Width>(x, x);
#pragma GCC unroll 8
    for (int j = 0; j < Count; ++j) store(row + j * kLanes, x[width_point<Width>(First + j)]);
  }
  for (int j = 0; j < Count; ++j) {
    f16 x[Height];
#pragma GCC unroll 8
    for (int i = 0; i < Height; ++i) x[i] = load(rows + (i * Count + j) * kLanes);
    transform_input<Height>(x, x);
#pragma GCC unroll 8
    for (int i = 0; i < Height; ++i) store(out + (j * Height + i) * stride, x[i]);
  }
}

// The same of G (tile) G^T, for the (Height - 4) x (Width - 4) tile of output gradients at (top, left).
template <int Height, int Width, int First, int Count, class T>
VNET_INLINE void gradient_plane(const T* plane, int64_t h, int64_t w, int64_t top, int64_t left, int64_t ahead,
                                float* out, int64_t stride) {
  constexpr int kTileH = Height - 4, kTileW = Width - 4;
  f16 rows[kTileH * Width];
#pragma GCC unroll 4
  for (int i = 0; i < kTileH; ++i) {
    f16 x[kTileW];
    const T* from = plane + ((top + i) * w + left) * kLanes;
#pragma GCC unroll 8
    for (int j = 0; j < kTileW; ++j) {
      x[j] = top + i < h && left + j < w ? load(from + j * kLanes) : zero();
      prefetch(from + ahead + j * kLanes);
    }
    transform_kernel<Width, kTileW>(x, rows + i * Width);
  }
#pragma GCC unroll 8
  for (int j = 0; j < Count; ++j) {
    f16 x[kTileH], y[Height];
#pragma GCC unroll 8
    for (int i = 0; i < kTileH; ++i) x[i] = rows[i * Width + width_point<Width>(First + j)];
    transform_kernel<Height, kTileH>(x, y);
#pragma GCC unroll 8
    for (int i = 0; i < Height; ++i) store(out + (j * Height + i) * stride, y[i]);
  }
}

// Positions [First, First + Count) of the planes of runs [first, last) of channel block `block`; plane p of the r-th
// of them goes to out + (r * planes + p) * 16.
template <int First, int Count, class Plan, class T>
void input_planes(const Plan& plan, const T* x, int64_t first, int64_t last, int64_t block, float* out) {
  const Shape& in = plan.in;
  int64_t planes = plan.input_planes(), area = in.h * in.w * kLanes, stride = plan.input_stride();
  for (int64_t p = 0; p < planes; ++p) {
    for (int64_t r = first; r < last; ++r) {
      WeightsRun run = plan.run(r);
      float* to = out + ((r - first) * planes + p) * kLanes;
      int64_t depth = run.depth - kMargin + p;
      if (depth < 0 || depth >= in.d) {
        clear_plane<Plan::kHeight * Count>(to, stride);
        continue;
      }
      const T* plane = x + ((run.sample * plan.in_blocks + block) * in.d + depth) * area;
      input_plane<Plan::kHeight, Plan::kWidth, First, Count>(plane, in.h, in.w, run.height - kMargin,
                                                             run.width - kMargin, depth + 1 < in.d ? area : 0, to,
                                                             stride);
    }
  }
}

template <int First, int Count, class Plan, class T>
void gradient_planes(const Plan& plan, const T* dy, int64_t first, int64_t last, int64_t block, float* out) {
  const Shape& in = plan.in;
  int64_t planes = plan.gradient_planes(), area = in.h * in.w * kLanes, stride = plan.gradient_stride();
  for (int64_t p = 0; p < planes; ++p) {
    for (int64_t r = first; r < last; ++r) {
      WeightsRun run = plan.run(r);
      float* to = out + ((r - first) * planes + p) * kLanes;
      int64_t depth = run.depth + p;
      if (depth >= in.d) {
        clear_plane<Plan::kHeight * Count>(to, stride);
        continue;
      }
      const T* plane = dy + ((run.sample * plan.out_blocks + block) * in.d + depth) * area;
      gradient_plane<Plan::kHeight, Plan::kWidth, First, Count>(plane, in.h, in.w, run.height, run.width,
                                                                depth + 1 < in.d ? area : 0, to, stride);
    }
  }
}

// Over depth: `runs` runs of `tiles` tiles each, planes[run][plane][16] -> out[depth point][run, tile][16], with `step`
// floats between two depth points.
template <int Depth>
VNET_INLINE void input_depth(const float* planes, int64_t runs, int64_t tiles, float* out, int64_t step) {
  for (int64_t r = 0; r < runs; ++r) {
    for (int64_t t = 0; t < tiles; ++t) {
      f16 x[Depth];
#pragma GCC unroll 8
      for (int k = 0; k < Depth; ++k) x[k] = load(planes + k * kLanes);
      transform_input<Depth>(x, x);
#pragma GCC unroll 8
      for (int k = 0; k < Depth; ++k) store(out + k * step, x[k]);
      planes += (Depth - 4) * kLanes;
      out += kLanes;
    }
    planes += 4 * kLanes;
  }
}

template <int Depth>
VNET_INLINE void gradient_depth(const float* planes, int64_t tiles, float* out, int64_t step) {
  constexpr int kTile = Depth - 4;
  for (int64_t t = 0; t < tiles; ++t) {
    f16 x[kTile], y[Depth];
#pragma GCC unroll 8
    for (int k = 0; k < kTile; ++k) x[k] = load(planes + k * kLanes);
    transform_kernel<Depth, kTile>(x, y);
#pragma GCC unroll 8
    for (int k = 0; k < Depth; ++k) store(out + k * step, y[k]);
    planes += kTile * kLanes;
    out += kLanes;
  }
}

}  // namespace vnet
