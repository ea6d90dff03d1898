// Weight gradients of the convolutions at the network's edges. edge.h has the idea.
//
// Both are dw[plain q][blocked c][tap] = sum over voxels v of plain[q][v + tap] * blocked[c][v]: of the image and the
// gradient of the first convolution's result, or, with the taps read backwards, of the classes' gradient and the last
// convolution's input. That is a correlation of the plain rows with a "kernel" of 4 x 4 blocked rows that has 5 x 5
// results, so Winograd's F(5, 4) on the same 8 x 8 points (Lavin & Gray 2016, section 5):
//
//     dw = A^T [ sum over tiles of (G blocked) * (B^T plain) ]
//
// with A^T applied once at the end. A voxel takes 20 products a plain channel in place of 125, each with the plain
// value broadcast to sixteen channels, and every blocked voxel is read once.
#include "edge.h"
#include "rows.h"

namespace vnet {

namespace {

constexpr int kStrip = 8;            // voxels along the width
constexpr int kStep = 4;             // of them, those that are in registers at a time
constexpr int kStripFloats = kStrip * kLanes;
constexpr int64_t kFlushTiles = 4;   // summed in fp32 before the sums are added to the thread's total

// total[k] += sum over the strip's voxels of x[voxel + k] * y[voxel], for two points: ten chains of additions.
VNET_INLINE void add_two_points(const float* x0, const float* x1, const float* y0, const float* y1, float* total0,
                                float* total1) {
  f16 sum0[kTaps], sum1[kTaps];
#pragma GCC unroll 5
  for (int k = 0; k < kTaps; ++k) {
    sum0[k] = load(total0 + k * kLanes);
    sum1[k] = load(total1 + k * kLanes);
  }
#pragma GCC unroll 2
  for (int start = 0; start < kStrip; start += kStep) {
    f16 voxels0[kStep], voxels1[kStep];
#pragma GCC unroll 4
    for (int voxel = 0; voxel < kStep; ++voxel) {
      voxels0[voxel] = load(y0 + (start + voxel) * kLanes);
      voxels1[voxel] = load(y1 + (start + voxel) * kLanes);
    }
#pragma GCC unroll 8
    for (int place = 0; place < kStep + kTaps - 1; ++place) {
      f16 value0 = set1(x0[start + place]), value1 = set1(x1[start + place]);
#pragma GCC unroll 5
      for (int k = 0; k < kTaps; ++k) {
        int voxel = place - k;
        if (voxel >= 0 && voxel < kStep) {
          sum0[k] = fma(voxels0[voxel], value0, sum0[k]);
          sum1[k] = fma(voxels1[voxel], value1, sum1[k]);
        }
      }
    }
  }
#pragma GCC unroll 5
  for (int k = 0; k < kTaps; ++k) {
    store(total0 + k * kLanes, sum0[k]);
    store(total1 + k * kLanes, sum1[k]);
  }
}

template <class T>
struct EdgeWeightGradient {
  Shape shape;  // of the blocked volume
  EdgeGrid grid;
  int64_t plain;
  const float* padded;  // [sample][plain]
  const T* blocked;

  // [block][point][plain][tap along the width][lane]
  int64_t sums_floats() const { return shape.blocks() * kEdgePoints * plain * kEdgeTapFloats; }
  // A thread's scratch memory: a tile of each plain channel, a strip after G in height, and its points of one height.
  int64_t scratch_floats() const {
    return plain * grid.tile_floats() + kEdgeTile * kEdgeAlpha * kStripFloats + kEdgeAlpha * kStripFloats;
  }

  // `total` gets the sums of the tiles [first, last).
  void tiles(int64_t first, int64_t last, float* memory, float* sums, float* total) const {
    std::memset(total, 0, sums_floats() * sizeof(float));
    while (first < last) {
      int64_t end = std::min(last, first + kFlushTiles);
      std::memset(sums, 0, sums_floats() * sizeof(float));
      for (; first < end; ++first) add_tile(first, memory, sums);
      for (int64_t k = 0; k < sums_floats(); ++k) total[k] += sums[k];
    }
  }

 private:
  void add_tile(int64_t task, float* memory, float* sums) const {
    int64_t sample = task / grid.tiles(), tile = task % grid.tiles();
    for (int64_t q = 0; q < plain; ++q) {
      edge_transform_rows(grid, padded + (sample * plain + q) * grid.channel_floats(), tile,
                          memory + q * grid.tile_floats());
    }
    float* heights = memory + plain * grid.tile_floats();
    float* points = heights + kEdgeTile * kEdgeAlpha * kStripFloats;
    for (int64_t block = 0; block < shape.blocks(); ++block) {
      for (int64_t w = 0; w < shape.w; w += kStrip) {
        transform_heights(sample * shape.blocks() + block, tile, w, heights);
        for (int h = 0; h < kEdgeAlpha; ++h) {
          for (int voxel = 0; voxel < kStripFloats; voxel += kLanes) {
            f16 in[kEdgeTile], result[kEdgeAlpha];
#pragma GCC unroll 4
            for (int d = 0; d < kEdgeTile; ++d) in[d] = load(heights + (d * kEdgeAlpha + h) * kStripFloats + voxel);
            transform_kernel<kEdgeAlpha, kEdgeTile>(in, result);
#pragma GCC unroll 8
            for (int d = 0; d < kEdgeAlpha; ++d) store(points + d * kStripFloats + voxel, result[d]);
          }
          for (int d = 0; d < kEdgeAlpha; d += 2) add_points(memory + w, block, d, h, points, sums);
        }
      }
    }
  }

  // The depth points d and d + 1 at height point h, all plain channels.
  VNET_INLINE void add_points(const float* tile, int64_t block, int d, int h, const float* points, float* sums) const {
    int64_t point = d * kEdgeAlpha + h;
    const float* x = tile + point * grid.row_floats;
    float* total = sums + (block * kEdgePoints + point) * plain * kEdgeTapFloats;
    const float* y = points + d * kStripFloats;
    for (int64_t q = 0; q < plain; ++q, x += grid.tile_floats(), total += kEdgeTapFloats) {
      add_two_points(x, x + kEdgeAlpha * grid.row_floats, y, y + kStripFloats, total,
                     total + kEdgeAlpha * plain * kEdgeTapFloats);
    }
  }

  // G in height: heights[depth][height point][voxel]; zeros outside of the volume.
  void transform_heights(int64_t volume, int64_t tile, int64_t w_start, float* heights) const {
    int64_t d_start = tile / grid.height * kEdgeTile, h_start = tile % grid.height * kEdgeTile;
    int64_t width = std::min<int64_t>(kStrip, shape.w - w_start);
    T nothing[kLanes] = {};
    for (int64_t d = 0; d < kEdgeTile; ++d) {
      const T* row[kEdgeTile];
      int64_t step[kEdgeTile];  // 0 in a row outside of the volume: all its voxels are `nothing`
      for (int64_t h = 0; h < kEdgeTile; ++h) {
        bool inside = d_start + d < shape.d && h_start + h < shape.h;
        int64_t voxel = ((volume * shape.d + d_start + d) * shape.h + h_start + h) * shape.w + w_start;
        row[h] = inside ? blocked + voxel * kLanes : nothing;
        step[h] = inside ? kLanes : 0;
      }
      float* out = heights + d * kEdgeAlpha * kStripFloats;
      for (int64_t voxel = 0; voxel < kStrip; ++voxel, out += kLanes) {
        f16 in[kEdgeTile], result[kEdgeAlpha];
#pragma GCC unroll 4
        for (int h = 0; h < kEdgeTile; ++h) {
          in[h] = voxel < width ? load(row[h]) : zero();
          __builtin_prefetch(row[h] + kEdgeTile * shape.w * kLanes, 0, 2);  // the next tile, while this one is summed
          row[h] += step[h];
        }
        transform_kernel<kEdgeAlpha, kEdgeTile>(in, result);
#pragma GCC unroll 8
        for (int h = 0; h < kEdgeAlpha; ++h) store(out + h * kStripFloats, result[h]);
      }
    }
  }
};

// A^T on the sums, and the taps to their place in dweight.
void write_weights(const EdgeWeights& weights, const float* sums, float* dweight) {
  int64_t k = weights.k, margin = (kTaps - k) / 2, plain = weights.plain;
  for (int64_t block = 0; block < weights.channels / kLanes; ++block) {
    for (int64_t q = 0; q < plain; ++q) {
      for (int w = 0; w < k; ++w) {
        f16 halves[kEdgeAlpha][kTaps];
        for (int d = 0; d < kEdgeAlpha; ++d) {
          f16 line[kEdgeAlpha];
          for (int h = 0; h < kEdgeAlpha; ++h) {
            int64_t point = block * kEdgePoints + d * kEdgeAlpha + h;
            line[h] = load(sums + ((point * plain + q) * kTaps + margin + w) * kLanes);
          }
          transform_output<kEdgeAlpha, kTaps>(line, halves[d]);
        }
        for (int64_t h = 0; h < k; ++h) {
          f16 line[kEdgeAlpha], taps[kTaps];
          for (int d = 0; d < kEdgeAlpha; ++d) line[d] = halves[d][margin + h];
          transform_output<kEdgeAlpha, kTaps>(line, taps);
          for (int64_t d = 0; d < k; ++d) {
            int64_t tap = (d * k + h) * k + w;
            if (weights.flipped) tap = k * k * k - 1 - tap;
            float lanes[kLanes];
            store(lanes, taps[margin + d]);
            float* to = dweight + block * kLanes * weights.channel_stride + q * weights.plain_stride + tap;
            for (int lane = 0; lane < kLanes; ++lane) to[lane * weights.channel_stride] = lanes[lane];
          }
        }
      }
    }
  }
}

template <class T>
void edge_weight_gradient(Shape shape, const EdgeWeights& weights, const float* plain, const T* blocked,
                          float* dweight) {
  ScratchScope scope;
  weights.check();
  EdgeGrid grid(shape);
  float* padded = scratch(shape.n * weights.plain * grid.channel_floats());
  edge_pad(shape, grid, shape.n * weights.plain, plain, padded);

  EdgeWeightGradient<T> kernel{shape, grid, weights.plain, padded, blocked};
  int64_t floats = kernel.scratch_floats(), sums = kernel.sums_floats();
  float* memory = scratch(threads() * floats);
  float* running = scratch(threads() * sums);
  float* totals = scratch(threads() * sums);
  int64_t tiles = shape.n * grid.tiles();
  share(tiles, [&](int64_t first, int64_t last, int thread) {
    kernel.tiles(first, last, memory + thread * floats, running + thread * sums, totals + thread * sums);
  });
  for (int64_t thread = 1; thread < std::min<int64_t>(threads(), tiles); ++thread) {
    for (int64_t k = 0; k < sums; ++k) totals[k] += totals[thread * sums + k];
  }
  write_weights(weights, totals, dweight);
}

}  // namespace

template <class T>
void input_backward_weights(Shape in, int64_t channels, const float* x, const T* dy, float* dweight) {
  EdgeWeights weights{channels, 1, kTaps * kTaps * kTaps, 0, kTaps, false};
  edge_weight_gradient({in.n, channels, in.d, in.h, in.w}, weights, x, dy, dweight);
}

template <class T>
void output_backward_weights(Shape in, int64_t classes, int64_t k, const T* x, const float* dy, float* dweight) {
  int64_t taps = k * k * k;
  EdgeWeights weights{in.c, classes, taps, in.c * taps, k, true};
  edge_weight_gradient(in, weights, dy, x, dweight);
}

template void input_backward_weights(Shape, int64_t, const float*, const float*, float*);
template void input_backward_weights(Shape, int64_t, const float*, const bf16*, float*);
template void output_backward_weights(Shape, int64_t, int64_t, const float*, const float*, float*);
template void output_backward_weights(Shape, int64_t, int64_t, const bf16*, const float*, float*);

}  // namespace vnet
