// The cooperative form of a Winograd convolution, for many channels, where the transformed weights are so large that
// they must serve many tiles: all threads transform the tiles of a group, then multiply, each other points, and then
// transform back.
#pragma once

#include "winograd_convolution.h"

namespace vnet {

template <class T, int AlphaD, int AlphaH, int AlphaW>
void DataConvolution<T, AlphaD, AlphaH, AlphaW>::run_cooperative(const TileTasks& tasks) {
  constexpr int kAllPoints = AlphaD * kPoints;
  // Of each point, [block][tile][16]: first the inputs, then, in their place, the products.
  int64_t point_stride = (std::max(in_blocks_, out_blocks_) * tasks.max_tiles() + 1) * kLanes;
  float* tiles = scratch(kAllPoints * point_stride);
  for (int64_t task = 0; task < tasks.count(); ++task) {
    int64_t runs = tasks.runs(task), rows = tasks.tiles(task);
    spread(in_blocks_ * runs, [&](int64_t part, int) {
      TileRun run = tasks.run(task, part % runs);
      transform_run(run, part / runs, tiles + (part / runs * rows + run.first_tile) * kLanes, point_stride);
    });
    constexpr int kTogether = 4;  // points
    spread(kAllPoints / kTogether, [&](int64_t part, int) {
      for (int64_t point = part * kTogether; point < (part + 1) * kTogether; ++point) {
        multiply_point(tiles + point * point_stride, rows, weights_ + point * layout_.stride);
      }
    });
    spread(out_blocks_ * runs, [&](int64_t part, int) {
      TileRun run = tasks.run(task, part % runs);
      finish_run(run, part / runs, tiles + (part / runs * rows + run.first_tile) * kLanes, point_stride);
      if (streamed_) fence();
    });
  }
}

// Transforms the tiles of a run; the first goes to `out`.
template <class T, int AlphaD, int AlphaH, int AlphaW>
void DataConvolution<T, AlphaD, AlphaH, AlphaW>::transform_run(const TileRun& run, int64_t block, float* out,
                                                               int64_t point_stride) const {
  alignas(64) float planes[AlphaD * kPlane];  // a ring
  int64_t plane_size = in_.h * in_.w * kLanes;
  const T* from = input_block(run.sample, block);
  for (int64_t tile = 0; tile < run.tiles; ++tile) {
    const float* plane[AlphaD];
    for (int k = 0; k < AlphaD; ++k) {
      int64_t d = tile * kDeep + k;
      float* to = planes + d % AlphaD * kPlane;
      plane[k] = to;
      if (tile > 0 && k < kTaps - 1) continue;  // known from the tile before
      transform_plane<AlphaH, AlphaW>(from, in_, run.d - kMargin + d, run.h - kMargin, run.w - kMargin,
                                      kPlanesAhead * plane_size, to);
    }
    for (int point = 0; point < kPoints; ++point) {
      float* to = out + tile * kLanes + point * AlphaD * point_stride;
#pragma GCC unroll 8
      for (int k = 0; k < AlphaD; ++k) __builtin_prefetch(to + (3 * AlphaD + k) * point_stride, 1);
      f16 x[AlphaD];
#pragma GCC unroll 8
      for (int k = 0; k < AlphaD; ++k) x[k] = load(plane[k] + point * kLanes);
      transform_input<AlphaD>(x, x);
#pragma GCC unroll 8
      for (int k = 0; k < AlphaD; ++k) store(to + k * point_stride, x[k]);
    }
  }
}

// The product of one point, in place: some tiles at a time are copied first, as long as they fit into L1.
template <class T, int AlphaD, int AlphaH, int AlphaW>
void DataConvolution<T, AlphaD, AlphaH, AlphaW>::multiply_point(float* tiles, int64_t rows,
                                                                const float* weights) const {
  alignas(64) float copied[kCopiedFloats];
  int64_t most = std::max<int64_t>(kCopiedFloats / in_.c, 1), parts = (rows + most - 1) / most;
  for (int64_t part = 0; part < parts; ++part) {
    int64_t first = rows * part / parts, count = rows * (part + 1) / parts - first;
    for (int64_t block = 0; block < in_blocks_; ++block) {
      std::memcpy(copied + block * count * kLanes, tiles + (block * rows + first) * kLanes,
                  sizeof(float) * count * kLanes);
    }
    RowSplit split(count, layout_.panel);
    int64_t panel_floats = layout_.panel * kLanes * in_.c;
    int64_t ahead_lines = (layout_.panel * kLanes + split.parts() - 1) / split.parts();
    for (int64_t block = 0; block < out_blocks_; block += layout_.panel) {
      const float* panel = weights + layout_.offset(0, block);
      split.multiply(copied, count * kLanes, panel, tiles + (block * rows + first) * kLanes, rows * kLanes, in_blocks_,
                     panel + panel_floats, ahead_lines);
    }
  }
}

template <class T, int AlphaD, int AlphaH, int AlphaW>
void DataConvolution<T, AlphaD, AlphaH, AlphaW>::finish_run(const TileRun& run, int64_t block, const float* in,
                                                            int64_t point_stride) const {
  alignas(64) float planes[kDeep * kPlane];
  PlaneSink<T> to = sink(run, block);
  for (int64_t tile = 0; tile < run.tiles; ++tile) {
    for (int point = 0; point < kPoints; ++point) {
      f16 x[AlphaD], y[kDeep];
#pragma GCC unroll 8
      for (int k = 0; k < AlphaD; ++k) x[k] = load(in + tile * kLanes + (point * AlphaD + k) * point_stride);
      transform_output<AlphaD, kDeep>(x, y);
#pragma GCC unroll 8
      for (int k = 0; k < kDeep; ++k) store(planes + k * kPlane + point * kLanes, y[k]);
    }
    for (int64_t d = 0; d < kDeep && run.d + tile * kDeep + d < out_.d; ++d) {
      to.template plane<AlphaH, AlphaW>(planes + d * kPlane, run.d + tile * kDeep + d, run.h, run.w);
    }
  }
}

}  // namespace vnet
