// From blocked channels to a few plain ones, 5x5x5 (1 and 3 as the middle of it): the network's last convolution.
// edge.h has the idea.
//
// A sum over channels here is a sum over lanes and blocks. Lanes are kept apart while the products of a point are
// summed over blocks and taps, in sixteen registers for two classes and eight voxels; adding up the lanes then also
// transposes, to eight voxels of two classes in one register, on which A^T is cheap. A task is a column of tiles along
// the depth: planes that two tiles share are transformed in height once and kept in a ring of eight.
#include "edge.h"
#include "rows.h"
#include "task_sums.h"

namespace vnet {

namespace {

constexpr int kColumn = 64;                       // voxels of a column along the width
constexpr int kGroup = 8;                         // voxels whose lanes are summed at once
constexpr int kGroups = kColumn / kGroup;
constexpr int kStep = kRegisters >= 32 ? 8 : 1;   // voxels whose sums, of two classes, are in registers at a time
constexpr int kPairFloats = 2 * kEdgeTapFloats;
constexpr int kReach = kColumn + kTaps - 1;       // input voxels of a column
constexpr int kLineFloats = kReach * kLanes;
constexpr int kPlaneFloats = kEdgeAlpha * kLineFloats + kLanes;  // odd stride

// Lanes 0-7: sum over blocks, channels and taps k of x[block][voxel + k] * weight[block][0][k] for eight voxels;
// lanes 8-15: the same for the pair's second class.
VNET_INLINE f16 pair_sums(const float* x, int64_t x_stride, int64_t blocks, const float* weight,
                          int64_t weight_stride) {
  f16 partial[2 * kGroup];
  for (int start = 0; start < kGroup; start += kStep) {
    f16 total[2][kStep];
#pragma GCC unroll 8
    for (int voxel = 0; voxel < kStep; ++voxel) total[0][voxel] = total[1][voxel] = zero();
    for (int64_t block = 0; block < blocks; ++block) {
      const float* line = x + block * x_stride + start * kLanes;
      const float* pair = weight + block * weight_stride;
      f16 taps[2][kTaps];
#pragma GCC unroll 5
      for (int k = 0; k < kTaps; ++k) {
        taps[0][k] = load(pair + k * kLanes);
        taps[1][k] = load(pair + kEdgeTapFloats + k * kLanes);
      }
#pragma GCC unroll 12
      for (int place = 0; place < kStep + kTaps - 1; ++place) {
        f16 value = load(line + place * kLanes);
#pragma GCC unroll 5
        for (int k = 0; k < kTaps; ++k) {
          int voxel = place - k;
          if (voxel >= 0 && voxel < kStep) {
            total[0][voxel] = fma(taps[0][k], value, total[0][voxel]);
            total[1][voxel] = fma(taps[1][k], value, total[1][voxel]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int voxel = 0; voxel < kStep; ++voxel) {
      partial[start + voxel] = total[0][voxel];
      partial[kGroup + start + voxel] = total[1][voxel];
    }
  }
  return lane_sums(partial);
}

template <class T>
struct ToPlain {
  Shape in;
  int64_t classes, pairs;
  EdgeGrid grid;
  int64_t columns;           // along the width
  const T* x;
  const float* transformed;  // weights
  const float* bias;
  float* y;

  // A thread's scratch memory: the ring of planes of each block, the eight depth points of one height point of each
  // block, and the points' sums.
  int64_t ring_floats() const { return in.blocks() * kEdgeAlpha * kPlaneFloats; }
  int64_t lines_floats() const { return in.blocks() * kEdgeAlpha * kLineFloats; }
  int64_t sums_floats() const { return pairs * kGroups * kEdgePoints * kLanes; }
  int64_t scratch_floats() const { return ring_floats() + lines_floats() + sums_floats() + kLanes; }

  void column(int64_t task, float* memory, double* sums) const {
    int64_t sample = task / (grid.height * columns), rest = task % (grid.height * columns);
    int64_t h_start = rest / columns * kEdgeTile, w_start = rest % columns * kColumn;
    int64_t groups = (std::min<int64_t>(kColumn, in.w - w_start) + kGroup - 1) / kGroup;
    float* ring = memory;
    float* lines = ring + ring_floats();
    float* points = lines + lines_floats();
    for (int64_t tile = 0; tile < grid.depth; ++tile) {
      for (int64_t plane = tile == 0 ? 0 : kTaps - 1; plane < kEdgeAlpha; ++plane) {
        int64_t d = tile * kEdgeTile + plane;
        for (int64_t block = 0; block < in.blocks(); ++block) {
          transform_plane(sample * in.blocks() + block, d - kMargin, h_start, w_start,
                          ring + (block * kEdgeAlpha + d % kEdgeAlpha) * kPlaneFloats);
        }
      }
      for (int h = 0; h < kEdgeAlpha; ++h) {
        transform_depth(ring, tile * kEdgeTile, h, groups, lines);
        sum_points(lines, h, groups, points);
      }
      for (int64_t pair = 0; pair < pairs; ++pair) {
        for (int64_t group = 0; group < groups; ++group) {
          write_group(sample, pair, tile * kEdgeTile, h_start, w_start + group * kGroup,
                      points + (pair * kGroups + group) * kEdgePoints * kLanes, sums);
        }
      }
    }
  }

 private:
  // B^T in height for the 8 rows of plane d from row h_start - 2 on.
  void transform_plane(int64_t volume, int64_t d, int64_t h_start, int64_t w_start, float* out) const {
    if (d < 0 || d >= in.d) {
      std::memset(out, 0, kPlaneFloats * sizeof(float));
      return;
    }
    int64_t first = std::max<int64_t>(0, kMargin - w_start);
    int64_t last = std::min<int64_t>(kReach, in.w + kMargin - w_start);
    T nothing[kLanes] = {};
    const T* row[kEdgeAlpha];
    int64_t step[kEdgeAlpha];  // 0 in a row outside of the volume: all its voxels are `nothing`
    for (int k = 0; k < kEdgeAlpha; ++k) {
      int64_t h = h_start - kMargin + k;
      bool inside = h >= 0 && h < in.h;
      row[k] = inside ? x + (((volume * in.d + d) * in.h + h) * in.w + w_start - kMargin + first) * kLanes : nothing;
      step[k] = inside ? kLanes : 0;
    }
    for (int h = 0; h < kEdgeAlpha; ++h) {
      float* line = out + h * kLineFloats;
      std::memset(line, 0, first * kLanes * sizeof(float));
      std::memset(line + last * kLanes, 0, (kReach - last) * kLanes * sizeof(float));
    }
    for (int64_t w = first; w < last; ++w) {
      f16 line[kEdgeAlpha];
#pragma GCC unroll 8
      for (int k = 0; k < kEdgeAlpha; ++k) {
        line[k] = load(row[k]);
        row[k] += step[k];
      }
      transform_input<kEdgeAlpha>(line, line);
#pragma GCC unroll 8
      for (int k = 0; k < kEdgeAlpha; ++k) store(out + k * kLineFloats + w * kLanes, line[k]);
    }
  }

  // B^T in depth for one height point: lines[block][depth point][voxel].
  void transform_depth(const float* ring, int64_t first_plane, int h, int64_t groups, float* lines) const {
    int64_t reach = groups * kGroup + kTaps - 1;
    for (int64_t block = 0; block < in.blocks(); ++block) {
      const float* plane[kEdgeAlpha];
      for (int k = 0; k < kEdgeAlpha; ++k) {
        plane[k] = ring + (block * kEdgeAlpha + (first_plane + k) % kEdgeAlpha) * kPlaneFloats + h * kLineFloats;
      }
      float* out = lines + block * kEdgeAlpha * kLineFloats;
      for (int64_t offset = 0; offset < reach * kLanes; offset += kLanes) {
        f16 line[kEdgeAlpha];
#pragma GCC unroll 8
        for (int k = 0; k < kEdgeAlpha; ++k) line[k] = load(plane[k] + offset);
        transform_input<kEdgeAlpha>(line, line);
#pragma GCC unroll 8
        for (int k = 0; k < kEdgeAlpha; ++k) store(out + k * kLineFloats + offset, line[k]);
      }
    }
  }

  // points[pair][group][point]
  void sum_points(const float* lines, int h, int64_t groups, float* points) const {
    int64_t block_weights = kEdgePoints * pairs * kPairFloats;
    for (int d = 0; d < kEdgeAlpha; ++d) {
      int point = d * kEdgeAlpha + h;
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const float* weight = transformed + (point * pairs + pair) * kPairFloats;
        for (int64_t group = 0; group < groups; ++group) {
          f16 result = pair_sums(lines + d * kLineFloats + group * kGroup * kLanes, kEdgeAlpha * kLineFloats,
                                 in.blocks(), weight, block_weights);
          store(points + ((pair * kGroups + group) * kEdgePoints + point) * kLanes, result);
        }
      }
    }
  }

  void write_group(int64_t sample, int64_t pair, int64_t d_start, int64_t h_start, int64_t w_start,
                   const float* points, double* sums) const {
    f16 halves[kEdgeAlpha][kEdgeTile], total = zero(), squares = zero();
    for (int d = 0; d < kEdgeAlpha; ++d) {
      f16 line[kEdgeAlpha];
#pragma GCC unroll 8
      for (int h = 0; h < kEdgeAlpha; ++h) line[h] = load(points + (d * kEdgeAlpha + h) * kLanes);
      transform_output<kEdgeAlpha, kEdgeTile>(line, halves[d]);
    }
    int64_t first_class = 2 * pair, count = std::min<int64_t>(2, classes - first_class);
    int64_t width = std::min<int64_t>(kGroup, in.w - w_start);
    float lanes[2 * kGroup], kept[2 * kGroup];
    for (int k = 0; k < 2 * kGroup; ++k) {
      bool wanted = k / kGroup < count && k % kGroup < width;
      lanes[k] = wanted && bias ? bias[first_class + k / kGroup] : 0.0f;
      kept[k] = wanted ? 1.0f : -1.0f;
    }
    f16 shift = load(lanes), mask = load(kept);
    for (int64_t h = 0; h < std::min<int64_t>(kEdgeTile, in.h - h_start); ++h) {
      f16 line[kEdgeAlpha], rows[kEdgeTile];
#pragma GCC unroll 8
      for (int d = 0; d < kEdgeAlpha; ++d) line[d] = halves[d][h];
      transform_output<kEdgeAlpha, kEdgeTile>(line, rows);
      for (int64_t d = 0; d < std::min<int64_t>(kEdgeTile, in.d - d_start); ++d) {
        f16 value = where_positive(mask, rows[d] + shift, zero());
        total = total + value;
        squares = fma(value, value, squares);
        store(lanes, value);
        float* to = y + (((sample * classes + first_class) * in.d + d_start + d) * in.h + h_start + h) * in.w + w_start;
        for (int64_t k = 0; k < count; ++k, to += in.voxels()) {
          if (width == kGroup) {
            std::memcpy(to, lanes + k * kGroup, kGroup * sizeof(float));
          } else {
            std::memcpy(to, lanes + k * kGroup, width * sizeof(float));
          }
        }
      }
    }
    if (!sums) return;
    store(lanes, total);
    store(kept, squares);
    for (int64_t k = 0; k < count * kGroup; ++k) {
      sums[first_class + k / kGroup] += lanes[k];
      sums[classes + first_class + k / kGroup] += kept[k];
    }
  }
};

}  // namespace

template <class T>
void output_forward(Shape in, int64_t classes, int64_t k, const T* x, const float* weight, const float* bias, float* y,
                    double* sums) {
  ScratchScope scope;
  int64_t pairs = (classes + 1) / 2, taps = k * k * k;
  EdgeWeights weights{in.c, classes, taps, in.c * taps, k, false};
  weights.check();
  float* transformed = scratch(weights.transformed_floats(2 * pairs));
  edge_transform_weights(weights, weight, 2 * pairs, transformed);

  EdgeGrid grid(in);
  int64_t columns = (in.w + kColumn - 1) / kColumn, tasks = in.n * grid.height * columns;
  ToPlain<T> kernel{in, classes, pairs, grid, columns, x, transformed, bias, y};
  int64_t floats = kernel.scratch_floats();
  float* memory = scratch(threads() * floats);
  run_with_sums(tasks, 2 * classes, sums, [&](int64_t task, int thread, double* task_sums) {
    kernel.column(task, memory + thread * floats, task_sums);
  });
}

template void output_forward(Shape, int64_t, int64_t, const float*, const float*, const float*, float*, double*);
template void output_forward(Shape, int64_t, int64_t, const bf16*, const float*, const float*, float*, double*);

}  // namespace vnet
