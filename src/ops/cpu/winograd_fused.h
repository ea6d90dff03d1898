// The fused form of a Winograd convolution, for few channels. A thread takes some tiles along depth and keeps their
// planes, transformed over h and w, in its L2. Then, for each of the AlphaH * AlphaW points, it transforms along depth,
// multiplies and transforms back in L1, and at last transforms the resulting planes back over h and w.
#pragma once

#include "winograd_convolution.h"

namespace vnet {

template <class T, int AlphaD, int AlphaH, int AlphaW>
void DataConvolution<T, AlphaD, AlphaH, AlphaW>::run_fused(const TileTasks& tasks) {
  int64_t most = tasks.max_tiles();
  int64_t plane_floats = in_blocks_ * tasks.max_planes() * kPlane;
  int64_t result_floats = out_blocks_ * most * kDeep * kPlane;
  int64_t tile_floats = AlphaD * (in_blocks_ * most + 1) * kLanes;
  int64_t product_floats = AlphaD * (out_blocks_ * most + 1) * kLanes;
  int64_t share = plane_floats + result_floats + tile_floats + product_floats + 4 * kLanes;
  float* memory = scratch(share * threads());
  spread(tasks.count(), [&](int64_t task, int thread) {
    float* planes = memory + share * thread;
    float* results = planes + plane_floats;
    float* tiles = results + result_floats;
    fused_task(tasks, task, planes, results, tiles, tiles + tile_floats);
    if (streamed_) fence();
  });
}

template <class T, int AlphaD, int AlphaH, int AlphaW>
void DataConvolution<T, AlphaD, AlphaH, AlphaW>::fused_task(const TileTasks& tasks, int64_t task, float* planes,
                                                            float* results, float* tiles, float* products) {
  int64_t runs = tasks.runs(task), rows = tasks.tiles(task);
  int64_t max_planes = tasks.max_planes();
  for (int64_t i = 0; i < runs; ++i) {
    TileRun run = tasks.run(task, i);
    int64_t count = tasks.planes(run.tiles), plane_size = in_.h * in_.w * kLanes;
    for (int64_t block = 0; block < in_blocks_; ++block) {
      const T* from = input_block(run.sample, block);
      float* to = planes + (block * max_planes + run.first_plane) * kPlane;
      for (int64_t d = 0; d < count; ++d) {
        int64_t ahead = d + kPlanesAhead < count ? kPlanesAhead : in_.d + kPlanesAhead - count;
        transform_plane<AlphaH, AlphaW>(from, in_, run.d - kMargin + d, run.h - kMargin, run.w - kMargin,
                                        ahead * plane_size, to + d * kPlane);
      }
    }
  }

  RowSplit split(rows, layout_.panel);
  // While a panel of weights is used, the same one of the next point is brought into the caches.
  int64_t ahead_lines = (layout_.panel * kLanes + split.parts() - 1) / split.parts();
  int64_t tile_stride = rows * kLanes;
  int64_t tile_point = (in_blocks_ * rows + 1) * kLanes, product_point = (out_blocks_ * rows + 1) * kLanes;
  int64_t run_tiles = rows / runs;
  for (int point = 0; point < kPoints; ++point) {
    for (int64_t block = 0; block < in_blocks_; ++block) {
      for (int64_t i = 0; i < runs; ++i) {
        const float* from = planes + (block * max_planes + i * tasks.planes(run_tiles)) * kPlane + point * kLanes;
        float* to = tiles + (block * rows + i * run_tiles) * kLanes;
        for (int64_t tile = 0; tile < run_tiles; ++tile) {
          f16 x[AlphaD];
#pragma GCC unroll 8
          for (int k = 0; k < AlphaD; ++k) x[k] = load(from + k * kPlane);
#pragma GCC unroll 8
          for (int k = kTaps - 1; k < AlphaD; ++k) __builtin_prefetch(from + k * kPlane + 4 * kLanes);
          transform_input<AlphaD>(x, x);
#pragma GCC unroll 8
          for (int k = 0; k < AlphaD; ++k) store(to + k * tile_point, x[k]);
          from += kDeep * kPlane;
          to += kLanes;
        }
      }
    }
    for (int k = 0; k < AlphaD; ++k) {
      const float* weights = weights_ + (point * AlphaD + k) * layout_.stride;
      for (int64_t block = 0; block < out_blocks_; block += layout_.panel) {
        const float* panel = weights + layout_.offset(0, block);
        split.multiply(tiles + k * tile_point, tile_stride, panel, products + k * product_point + block * tile_stride,
                       tile_stride, in_blocks_, panel + layout_.stride, ahead_lines);
      }
    }
    for (int64_t row = 0; row < out_blocks_ * rows; ++row) {
      const float* from = products + row * kLanes;
      float* to = results + row * kDeep * kPlane + point * kLanes;
      f16 x[AlphaD], y[kDeep];
#pragma GCC unroll 8
      for (int k = 0; k < kDeep; ++k) __builtin_prefetch(to + k * kPlane + 4 * kLanes, 1);
#pragma GCC unroll 8
      for (int k = 0; k < AlphaD; ++k) x[k] = load(from + k * product_point);
      transform_output<AlphaD, kDeep>(x, y);
#pragma GCC unroll 8
      for (int k = 0; k < kDeep; ++k) store(to + k * kPlane, y[k]);
    }
  }

  for (int64_t i = 0; i < runs; ++i) {
    TileRun run = tasks.run(task, i);
    int64_t depth = std::min(run.tiles * kDeep, out_.d - run.d);
    for (int64_t block = 0; block < out_blocks_; ++block) {
      PlaneSink<T> to = sink(run, block);
      const float* from = results + (block * rows + i * run_tiles) * kDeep * kPlane;
      for (int64_t d = 0; d < depth; ++d) {
        to.template plane<AlphaH, AlphaW>(from + d * kPlane, run.d + d, run.h, run.w);
      }
    }
  }
}

}  // namespace vnet
