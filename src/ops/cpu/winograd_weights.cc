// Weight gradient of the 5x5x5 convolution by Winograd's minimal filtering (Lavin & Gray 2016; winograd_tile.h).
//
// The gradient of tap k is the correlation dw[k] = sum over p of dy[p] x[p + k - 2]. With a tile of M output gradients
// as the "kernel" and the window of M + 4 inputs around it, the five taps an axis are the outputs of F(5, M):
//
//     dw = A^T [ sum over tiles of (B^T x) (G dy) ] A    (over three axes; the products are outer ones over channels)
//
// so A is applied once, after the sum over all tiles. At each transformed point the sum is a matrix product
// (in x tiles) (tiles x out). The order of work keeps the operands of these products in L2:
//
//   1. planes of x and dy are transformed over height and width, and stored by point of the plane: half the memory of
//      tiles that are transformed over all axes, as neighbours along depth share planes;
//   2. for each point: the transform over depth of a chunk of tiles (L1/L2), the products at the 6 or 8 depth points
//      in registers, and the transform of their sums back over depth (L1), which leaves 5 numbers of 6 or 8;
//   3. after the last tile: the transform back over height and width, and 16 x 16 transposes to (out, in, 5, 5, 5).
//
// Three ways to share this by threads, by size (choose()):
//   own:      each thread goes through tiles of its own and has sums of its own, which step 3 adds in order: few
//             channels, many tiles. As the sums of all points would not stay in L2, it does so for some points
//             along width at a time and transforms once a pass what these need; reading x and dy again costs less.
//   shared:   all threads transform a group's planes, then each takes some points for all channels: one set of sums.
//   resident: few tiles, many channels. The sums would be larger than everything else, so they are never stored: all
//             tiles are transformed over all axes, and each thread finishes pairs of channel blocks, steps 2 and 3,
//             with the sums of one pair in L2.
#include <stdexcept>

#include "scratch.h"
#include "threads.h"
#include "winograd_weights_gradient.h"
#include "winograd_weights_product.h"

namespace vnet {

namespace {

// [first, last) of `count` that is the share of `thread` of `team`.
struct Part {
  int64_t first, last;
  Part(int64_t count, int64_t thread, int64_t team) : first(count * thread / team), last(count * (thread + 1) / team) {}
};

// Step 2 for some points and a group's first `runs` runs (of group_runs that there is room for). With `add`, to what
// the sums already hold.
template <class Plan>
void multiply_points(const Plan& plan, const float* x_planes, const float* dy_planes, Part points, int64_t runs,
                     int64_t group_runs, float* work, float* sums, bool add) {
  constexpr int kDepth = Plan::kDepth;
  int64_t x_step = plan.input_step(), dy_step = plan.gradient_step(), tile_block = plan.chunk_tiles * kLanes;
  float* x = work;
  float* dy = work + kDepth * x_step;
  int64_t x_run = plan.input_planes() * kLanes, dy_run = plan.gradient_planes() * kLanes;
  for (int64_t point = points.first; point < points.last; ++point) {
    const float* x_point = x_planes + point * plan.input_stride();
    const float* dy_point = dy_planes + point * plan.gradient_stride();
    float* out = sums + point * kTaps * Plan::kSquare;
    for (int64_t first = 0; first < runs; first += plan.chunk_runs) {
      int64_t chunk = std::min(plan.chunk_runs, runs - first), tiles = chunk * plan.run_tiles;
      for (int64_t b = 0; b < plan.in_blocks; ++b) {
        input_depth<kDepth>(x_point + (b * group_runs + first) * x_run, chunk, plan.run_tiles, x + b * tile_block,
                            x_step);
      }
      for (int64_t b = 0; b < plan.out_blocks; ++b) {
        gradient_depth<kDepth>(dy_point + (b * group_runs + first) * dy_run, tiles, dy + b * tile_block, dy_step);
      }
      bool more = add || first > 0;
      for (int64_t i = 0; i < plan.in_blocks; ++i) {
        for (int64_t o = 0; o < plan.out_blocks; o += 2) {
          float* to = out + (i * plan.out_blocks + o) * Plan::kPairSums;
          const float* right = dy + o * tile_block;
          if (o + 1 < plan.out_blocks) {
            product_block<kDepth, 2>(x + i * tile_block, x_step, right, dy_step, tile_block, tiles, to,
                                     Plan::kPairSums, more);
          } else {
            product_block<kDepth, 1>(x + i * tile_block, x_step, right, dy_step, tile_block, tiles, to,
                                     Plan::kPairSums, more);
          }
        }
      }
    }
  }
}

// Step 3.
template <class Plan>
void write_gradient(const Plan& plan, const float* sums, int64_t slots, Part pairs, float* dweight) {
  for (int64_t pair = pairs.first; pair < pairs.last; ++pair) {
    int64_t i = pair / plan.out_blocks, o = pair % plan.out_blocks;
    gradient_block<Plan>(sums + pair * Plan::kPairSums, slots, plan.sums_size(), plan.in.c,
                         dweight + (o * kLanes * plan.in.c + i * kLanes) * kTaps * kTaps * kTaps);
  }
}

// The positions along width from First on, Count a pass, for one thread's share of the groups.
template <int First, int Count, class Plan, class T>
void own_pass(const Plan& plan, const T* x, const T* dy, Part groups, float* x_planes, float* dy_planes, float* work,
              float* sums) {
  constexpr int kPassPoints = Plan::kHeight * Count;
  for (int64_t group = groups.first; group < groups.last; ++group) {
    int64_t first = group * plan.group_runs, last = std::min(first + plan.group_runs, plan.runs);
    for (int64_t b = 0; b < plan.in_blocks; ++b) {
      input_planes<First, Count>(plan, x, first, last, b,
                                 x_planes + b * plan.group_runs * plan.input_planes() * kLanes);
    }
    for (int64_t b = 0; b < plan.out_blocks; ++b) {
      gradient_planes<First, Count>(plan, dy, first, last, b,
                                    dy_planes + b * plan.group_runs * plan.gradient_planes() * kLanes);
    }
    multiply_points(plan, x_planes, dy_planes, Part(kPassPoints, 0, 1), last - first, plan.group_runs, work,
                    sums + First * Plan::kHeight * kTaps * Plan::kSquare, group > groups.first);
  }
  if constexpr (First + Count < Plan::kWidth) {
    own_pass<First + Count, Count>(plan, x, dy, groups, x_planes, dy_planes, work, sums);
  }
}

template <class Plan, class T>
void run_own(const Plan& plan, const T* x, const T* dy, float* dweight) {
  constexpr int kWidth = Plan::kWidth;
  int64_t points = Plan::kPoints / plan.passes;
  int64_t x_size = plan.input_stride() * points, dy_size = plan.gradient_stride() * points;
  int64_t work_size = Plan::kDepth * (plan.input_step() + plan.gradient_step());
  float* x_all = scratch(plan.team * x_size);
  float* dy_all = scratch(plan.team * dy_size);
  float* work_all = scratch(plan.team * work_size);
  float* sums_all = scratch(plan.team * plan.sums_size());
#pragma omp parallel num_threads(static_cast<int>(plan.team))
  {
    int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    float *x_planes = x_all + thread * x_size, *dy_planes = dy_all + thread * dy_size;
    float *work = work_all + thread * work_size, *sums = sums_all + thread * plan.sums_size();
    Part groups(plan.groups, thread, team);
    if (plan.passes == 1) {
      own_pass<0, kWidth>(plan, x, dy, groups, x_planes, dy_planes, work, sums);
    } else if (plan.passes == 2) {
      own_pass<0, kWidth / 2>(plan, x, dy, groups, x_planes, dy_planes, work, sums);
    } else {
      own_pass<0, 2>(plan, x, dy, groups, x_planes, dy_planes, work, sums);
    }
#pragma omp barrier
    write_gradient(plan, sums_all, team, Part(plan.pairs(), thread, team), dweight);
  }
}

// Step 1 of a group, shared by the threads: a task is one run of one channel block.
template <class Plan, class T>
void transform_group(const Plan& plan, const T* x, const T* dy, int64_t first, int64_t last, int64_t thread,
                     int64_t team, float* x_planes, float* dy_planes) {
  int64_t runs = last - first, x_run = plan.input_planes() * kLanes, dy_run = plan.gradient_planes() * kLanes;
  // A block's share of runs is contiguous, so that their planes are read side by side.
  Part x_tasks(plan.in_blocks * runs, thread, team), dy_tasks(plan.out_blocks * runs, thread, team);
  for (int64_t task = x_tasks.first; task < x_tasks.last;) {
    int64_t block = task / runs, r = task % runs, count = std::min({runs - r, x_tasks.last - task, int64_t{8}});
    input_planes<0, Plan::kWidth>(plan, x, first + r, first + r + count, block,
                                  x_planes + (block * plan.group_runs + r) * x_run);
    task += count;
  }
  for (int64_t task = dy_tasks.first; task < dy_tasks.last;) {
    int64_t block = task / runs, r = task % runs, count = std::min({runs - r, dy_tasks.last - task, int64_t{8}});
    gradient_planes<0, Plan::kWidth>(plan, dy, first + r, first + r + count, block,
                                     dy_planes + (block * plan.group_runs + r) * dy_run);
    task += count;
  }
}

template <class Plan, class T>
void run_shared(const Plan& plan, const T* x, const T* dy, float* dweight) {
  int64_t work_size = Plan::kDepth * (plan.input_step() + plan.gradient_step());
  float* x_planes = scratch(plan.input_stride() * Plan::kPoints);
  float* dy_planes = scratch(plan.gradient_stride() * Plan::kPoints);
  float* work_all = scratch(plan.team * work_size);
  float* sums = scratch(plan.sums_size());
#pragma omp parallel num_threads(static_cast<int>(plan.team))
  {
    int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    for (int64_t group = 0; group < plan.groups; ++group) {
      int64_t first = group * plan.group_runs, last = std::min(first + plan.group_runs, plan.runs);
      transform_group(plan, x, dy, first, last, thread, team, x_planes, dy_planes);
#pragma omp barrier
      multiply_points(plan, x_planes, dy_planes, Part(Plan::kPoints, thread, team), last - first, plan.group_runs,
                      work_all + thread * work_size, sums, group > 0);
#pragma omp barrier
    }
    write_gradient(plan, sums, 1, Part(plan.pairs(), thread, team), dweight);
  }
}

template <class Plan, class T>
void run_resident(const Plan& plan, const T* x, const T* dy, float* dweight) {
  constexpr int kDepth = Plan::kDepth;
  // Transformed over all axes: [channel block][point of the plane][depth point][tile][16].
  int64_t tiles = plan.runs * plan.run_tiles, step = tiles * kLanes, point = kDepth * step;
  int64_t block = Plan::kPoints * point + kLanes;
  float* x_planes = scratch(plan.input_stride() * Plan::kPoints);
  float* dy_planes = scratch(plan.gradient_stride() * Plan::kPoints);
  float* x_tiles = scratch(plan.in_blocks * block);
  float* dy_tiles = scratch(plan.out_blocks * block);
  float* sums_all = scratch(plan.team * 2 * Plan::kPairSums);
#pragma omp parallel num_threads(static_cast<int>(plan.team))
  {
    int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    transform_group(plan, x, dy, 0, plan.runs, thread, team, x_planes, dy_planes);
#pragma omp barrier
    Part x_part(plan.in_blocks * Plan::kPoints, thread, team), dy_part(plan.out_blocks * Plan::kPoints, thread, team);
    for (int64_t task = x_part.first; task < x_part.last; ++task) {
      int64_t b = task / Plan::kPoints, p = task % Plan::kPoints;
      input_depth<kDepth>(x_planes + p * plan.input_stride() + b * plan.runs * plan.input_planes() * kLanes, plan.runs,
                          plan.run_tiles, x_tiles + b * block + p * point, step);
    }
    for (int64_t task = dy_part.first; task < dy_part.last; ++task) {
      int64_t b = task / Plan::kPoints, p = task % Plan::kPoints;
      gradient_depth<kDepth>(dy_planes + p * plan.gradient_stride() + b * plan.runs * plan.gradient_planes() * kLanes,
                             tiles, dy_tiles + b * block + p * point, step);
    }
#pragma omp barrier
    float* sums = sums_all + thread * 2 * Plan::kPairSums;
    int64_t doubles = (plan.out_blocks + 1) / 2;
    Part items(doubles * plan.in_blocks, thread, team);
    for (int64_t item = items.first; item < items.last; ++item) {
      int64_t o = item / plan.in_blocks * 2, i = item % plan.in_blocks;
      bool two = o + 1 < plan.out_blocks;
      for (int64_t p = 0; p < Plan::kPoints; ++p) {
        const float *left = x_tiles + i * block + p * point, *right = dy_tiles + o * block + p * point;
        float* to = sums + p * kTaps * Plan::kSquare;
        if (two) {
          product_block<kDepth, 2>(left, step, right, step, block, tiles, to, Plan::kPairSums, false);
        } else {
          product_block<kDepth, 1>(left, step, right, step, block, tiles, to, Plan::kPairSums, false);
        }
      }
      for (int64_t c = 0; c < 1 + two; ++c) {
        gradient_block<Plan>(sums + c * Plan::kPairSums, 1, 0, plan.in.c,
                             dweight + ((o + c) * kLanes * plan.in.c + i * kLanes) * kTaps * kTaps * kTaps);
      }
    }
  }
}

template <int Depth, int Height, int Width, class T>
void backward_weights(const Shape& in, int64_t channels, const T* x, const T* dy, float* dweight) {
  using Plan = WeightsPlan<Depth, Height, Width>;
  Plan plan(in, channels, threads());
  if (plan.mode == WeightsMode::own) return run_own(plan, x, dy, dweight);
  if (plan.mode == WeightsMode::shared) return run_shared(plan, x, dy, dweight);
  run_resident(plan, x, dy, dweight);
}

}  // namespace

template <class T>
void winograd_backward_weights(Shape in, int64_t channels, const T* x, const T* dy, float* dweight, Tiling tiling) {
  ScratchScope scope;
  if (in.c % kLanes != 0 || channels % kLanes != 0 || in.n < 1 || in.d < 1 || in.h < 1 || in.w < 1) {
    throw std::invalid_argument("winograd_backward_weights: empty volume, or channels that are no multiple of 16");
  }
  if (tiling == Tiling::f444) return backward_weights<8, 8, 8>(in, channels, x, dy, dweight);
  if (tiling == Tiling::f442) return backward_weights<8, 8, 6>(in, channels, x, dy, dweight);
  if (tiling == Tiling::f222) return backward_weights<6, 6, 6>(in, channels, x, dy, dweight);
  throw std::invalid_argument("winograd_backward_weights: not a Winograd tiling");
}

template void winograd_backward_weights<float>(Shape, int64_t, const float*, const float*, float*, Tiling);
template void winograd_backward_weights<bf16>(Shape, int64_t, const bf16*, const bf16*, float*, Tiling);

}  // namespace vnet
