// From plain channels to blocked ones, 5x5x5: the network's first convolution, and the gradient that its last one
// sends back. edge.h has the idea.
//
// A tile's plain rows are transformed once; then each strip of voxels along the width gets its 64 points as sums over
// plain channels and five taps, with the plain value broadcast to the sixteen channels, and A^T brings them back to
// 4 x 4 rows: 20 products and 12 operations of A^T a voxel and plain channel, against 125 products directly.
#include "edge.h"
#include "finish.h"
#include "rows.h"
#include "task_sums.h"

namespace vnet {

namespace {

constexpr int kStrip = 16;                          // voxels along the width
constexpr int kStep = kRegisters >= 32 ? 16 : 4;    // voxels whose sums are in registers at a time
constexpr int kStripFloats = kStrip * kLanes;
constexpr int kHalfFloats = kEdgeTile * kStripFloats + kLanes;  // a depth point after A^T in height; odd stride

// sums[voxel] = sum over plain channels q and taps k of x[q][voxel + k] * weight[q][k]
VNET_INLINE void point_sums(const float* x, int64_t x_stride, int64_t plain, const float* weight, float* sums) {
  for (int start = 0; start < kStrip; start += kStep) {
    f16 total[kStep];
#pragma GCC unroll 16
    for (int voxel = 0; voxel < kStep; ++voxel) total[voxel] = zero();
    for (int64_t q = 0; q < plain; ++q) {
      const float* row = x + q * x_stride + start;
      f16 taps[kTaps];
#pragma GCC unroll 5
      for (int k = 0; k < kTaps; ++k) taps[k] = load(weight + q * kEdgeTapFloats + k * kLanes);
#pragma GCC unroll 20
      for (int place = 0; place < kStep + kTaps - 1; ++place) {
        f16 value = set1(row[place]);
#pragma GCC unroll 5
        for (int k = 0; k < kTaps; ++k) {
          int voxel = place - k;
          if (voxel >= 0 && voxel < kStep) total[voxel] = fma(taps[k], value, total[voxel]);
        }
      }
    }
#pragma GCC unroll 16
    for (int voxel = 0; voxel < kStep; ++voxel) store(sums + (start + voxel) * kLanes, total[voxel]);
  }
}

template <class T>
struct ToBlocked {
  Shape out;
  EdgeGrid grid;
  int64_t plain;
  const float* padded;       // [sample][plain]
  const float* transformed;  // weights
  T* y;
  const Epilogue<T>& epilogue;
  bool streaming;

  // Floats of scratch memory for a thread: a tile of each plain channel, a strip's points of one depth, and those of
  // all depths after A^T in height.
  int64_t scratch_floats() const {
    return plain * grid.tile_floats() + kEdgeAlpha * kStripFloats + kEdgeAlpha * kHalfFloats;
  }

  void tile(int64_t task, float* memory, double* sums) const {
    int64_t sample = task / grid.tiles(), tile = task % grid.tiles();
    for (int64_t q = 0; q < plain; ++q) {
      edge_transform_rows(grid, padded + (sample * plain + q) * grid.channel_floats(), tile,
                          memory + q * grid.tile_floats());
    }
    float* points = memory + plain * grid.tile_floats();
    float* halves = points + kEdgeAlpha * kStripFloats;
    for (int64_t block = 0; block < out.blocks(); ++block) {
      FinishBlock<T> finish(epilogue, out, sample, block);
      for (int64_t w = 0; w < out.w; w += kStrip) {
        strip_points(memory + w, block, points, halves);
        f16 sum = zero(), square = zero();
        write_strip(finish, sample, block, tile, w, halves, &sum, &square);
        if (sums) {
          add_to(sums + block * kLanes, sum);
          add_to(sums + out.c + block * kLanes, square);
        }
      }
    }
  }

 private:
  void strip_points(const float* tile, int64_t block, float* points, float* halves) const {
    const float* weight = transformed + block * kEdgePoints * plain * kEdgeTapFloats;
    for (int d = 0; d < kEdgeAlpha; ++d) {
      for (int h = 0; h < kEdgeAlpha; ++h) {
        int point = d * kEdgeAlpha + h;
        point_sums(tile + point * grid.row_floats, grid.tile_floats(), plain,
                   weight + point * plain * kEdgeTapFloats, points + h * kStripFloats);
      }
      float* half = halves + d * kHalfFloats;
      for (int voxel = 0; voxel < kStripFloats; voxel += kLanes) {
        f16 in[kEdgeAlpha], result[kEdgeTile];
#pragma GCC unroll 8
        for (int h = 0; h < kEdgeAlpha; ++h) in[h] = load(points + h * kStripFloats + voxel);
        transform_output<kEdgeAlpha, kEdgeTile>(in, result);
#pragma GCC unroll 4
        for (int h = 0; h < kEdgeTile; ++h) store(half + h * kStripFloats + voxel, result[h]);
      }
    }
  }

  void write_strip(const FinishBlock<T>& finish, int64_t sample, int64_t block, int64_t tile, int64_t w_start,
                   const float* halves, f16* sum, f16* square) const {
    int64_t d_start = tile / grid.height * kEdgeTile, h_start = tile % grid.height * kEdgeTile;
    int64_t depths = std::min<int64_t>(kEdgeTile, out.d - d_start);
    int64_t heights = std::min<int64_t>(kEdgeTile, out.h - h_start);
    int64_t width = std::min<int64_t>(kStrip, out.w - w_start);
    T* volume = y + (sample * out.blocks() + block) * out.voxels() * kLanes;
    f16 total = zero(), squares = zero();
    for (int64_t h = 0; h < heights; ++h) {
      for (int64_t w = 0; w < width; w += 4) {
        f16 rows[kEdgeTile][4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          f16 in[kEdgeAlpha], result[kEdgeTile];
#pragma GCC unroll 8
          for (int d = 0; d < kEdgeAlpha; ++d) {
            in[d] = load(halves + d * kHalfFloats + h * kStripFloats + (w + k) * kLanes);
          }
          transform_output<kEdgeAlpha, kEdgeTile>(in, result);
#pragma GCC unroll 4
          for (int d = 0; d < kEdgeTile; ++d) rows[d][k] = result[d];
        }
#pragma GCC unroll 4
        for (int d = 0; d < kEdgeTile; ++d) {
          if (d >= depths) break;
          int64_t voxel = ((d_start + d) * out.h + h_start + h) * out.w + w_start + w;
          T* to = volume + voxel * kLanes;
          if (w + 4 <= width) {
            finish.template apply<4>(rows[d], voxel);
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
              total = total + rows[d][k];
              squares = fma(rows[d][k], rows[d][k], squares);
              if (streaming) {
                stream(to + k * kLanes, rows[d][k]);
              } else {
                store(to + k * kLanes, rows[d][k]);
              }
            }
          } else {
            for (int64_t k = 0; k < width - w; ++k) {
              f16 value = finish.apply(rows[d][k], voxel + k);
              total = total + value;
              squares = fma(value, value, squares);
              store(to + k * kLanes, value);
            }
          }
        }
      }
    }
    *sum = total;
    *square = squares;
  }
};

template <class T>
void plain_to_blocked(Shape out, int64_t plain, const float* x, const EdgeWeights& weights, const float* weight, T* y,
                      const Epilogue<T>& epilogue) {
  ScratchScope scope;
  weights.check();
  EdgeGrid grid(out);
  float* padded = scratch(out.n * plain * grid.channel_floats());
  edge_pad(out, grid, out.n * plain, x, padded);
  float* transformed = scratch(weights.transformed_floats(plain));
  edge_transform_weights(weights, weight, plain, transformed);

  ToBlocked<T> kernel{out, grid, plain, padded, transformed, y, epilogue, worth_streaming(out, y)};
  int64_t tasks = out.n * grid.tiles(), floats = kernel.scratch_floats();
  float* memory = scratch(threads() * floats);
  run_with_sums(tasks, 2 * out.c, epilogue.sums, [&](int64_t task, int thread, double* sums) {
    kernel.tile(task, memory + thread * floats, sums);
  });
}

}  // namespace

template <class T>
void input_forward(Shape in, int64_t channels, const float* x, const float* weight, T* y,
                   const Epilogue<T>& epilogue) {
  EdgeWeights weights{channels, 1, kTaps * kTaps * kTaps, 0, kTaps, false};
  plain_to_blocked({in.n, channels, in.d, in.h, in.w}, 1, x, weights, weight, y, epilogue);
}

template <class T>
void output_backward_data(Shape in, int64_t classes, int64_t k, const float* dy, const float* weight, T* dx) {
  int64_t taps = k * k * k;
  EdgeWeights weights{in.c, classes, taps, in.c * taps, k, true};
  plain_to_blocked(in, classes, dy, weights, weight, dx, Epilogue<T>());
}

template void input_forward(Shape, int64_t, const float*, const float*, float*, const Epilogue<float>&);
template void input_forward(Shape, int64_t, const float*, const float*, bf16*, const Epilogue<bf16>&);
template void output_backward_data(Shape, int64_t, int64_t, const float*, const float*, float*);
template void output_backward_data(Shape, int64_t, int64_t, const float*, const float*, bf16*);

}  // namespace vnet
