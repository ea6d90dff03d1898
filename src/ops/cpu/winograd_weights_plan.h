// How the weight gradient of a 5x5x5 convolution is cut into tiles, runs of tiles, groups of runs and scratch memory.
//
// A run is a row of tiles along the depth axis in one (row, column) of tiles: its tiles share the planes that have
// been transformed over height and width. A group is a number of runs that are transformed and multiplied together.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels.h"
#include "winograd_tile.h"

namespace vnet {


// How the work is shared by the threads; see winograd_weights.cc.
enum class WeightsMode { own, shared, resident };

// Points of a plane are numbered j * Height + i, with i the point along height and j the position of the point along
// width in the order 0, infinity, +p0, -p0, +p1, -p1, ... : some next to each other are a part of the work that shares
// little with the rest.
template <int Width>
constexpr int width_point(int position) {
  return position == 0 ? 0 : position == 1 ? Width - 1 : position - 1;
}
template <int Width>
constexpr int width_position(int point) {
  return point == 0 ? 0 : point == Width - 1 ? 1 : point + 1;
}

// Where a run's first tile begins in the output gradient; its window of the input begins kMargin before.
struct WeightsRun {
  int64_t sample, depth, height, width;
};

template <int Depth, int Height, int Width>
struct WeightsPlan {
  static constexpr int kDepth = Depth, kHeight = Height, kWidth = Width;  // transformed tile edges
  static constexpr int kStepD = Depth - 4, kStepH = Height - 4, kStepW = Width - 4;
  static constexpr int kPoints = Height * Width;                   // of a transformed plane
  static constexpr int64_t kSquare = kLanes * kLanes;              // 16 input channels x 16 output channels
  // Sums of one pair of channel blocks: [point of the plane][tap along depth][in 16][out 16]. One point more than
  // there is keeps pairs from falling on the same cache sets.
  static constexpr int64_t kPairSums = (kPoints + 1) * kTaps * kSquare;

  Shape in;
  int64_t in_blocks, out_blocks, team;
  int64_t tiles_d, tiles_h, tiles_w, tiles;
  int64_t run_tiles, pieces, columns, runs;  // a column of tiles is cut into `pieces` runs of at most run_tiles
  int64_t chunk_runs, chunk_tiles;           // multiplied at once
  int64_t group_runs, groups;                // transformed at once
  int64_t passes;                            // over all tiles, each with Width / passes positions along width
  WeightsMode mode;

  WeightsPlan(Shape shape, int64_t channels, int64_t thread_count)
      : in(shape), in_blocks(shape.blocks()), out_blocks(channels / kLanes), team(thread_count) {
    tiles_d = (in.d + kStepD - 1) / kStepD;
    tiles_h = (in.h + kStepH - 1) / kStepH;
    tiles_w = (in.w + kStepW - 1) / kStepW;
    columns = in.n * tiles_h * tiles_w;
    tiles = columns * tiles_d;
    choose();
  }

  int64_t pairs() const { return in_blocks * out_blocks; }
  int64_t input_planes() const { return run_tiles * kStepD + 4; }
  int64_t gradient_planes() const { return run_tiles * kStepD; }
  // Floats between two points of the transformed planes [point][channel block][run][plane][16]; odd in cache lines.
  int64_t input_stride() const { return (in_blocks * group_runs * input_planes() | 1) * kLanes; }
  int64_t gradient_stride() const { return (out_blocks * group_runs * gradient_planes() | 1) * kLanes; }
  // Floats between two depth points of a chunk's transformed tiles [depth point][channel block][tile][16].
  int64_t input_step() const { return in_blocks * chunk_tiles * kLanes + kLanes; }
  int64_t gradient_step() const { return out_blocks * chunk_tiles * kLanes + kLanes; }
  int64_t sums_size() const { return pairs() * kPairSums; }

  WeightsRun run(int64_t index) const {
    // Columns go through two rows of tiles at once, so that four in succession mostly share their margins.
    int64_t column = index % columns, area = tiles_h * tiles_w, sample = column / area;
    int64_t rest = column % area, top = rest / (2 * tiles_w) * 2, rows = std::min<int64_t>(2, tiles_h - top);
    rest -= top * tiles_w;
    return {sample, index / columns * run_tiles * kStepD, (top + rest % rows) * kStepH, rest / rows * kStepW};
  }

 private:
  // Runs of at most `run_goal` tiles, and as many of them to a chunk as make `chunk_goal` tiles.
  void cut_chunks(int64_t run_goal, int64_t chunk_goal) {
    pieces = (tiles_d + run_goal - 1) / run_goal;
    run_tiles = (tiles_d + pieces - 1) / pieces;
    runs = pieces * columns;
    chunk_runs = std::max<int64_t>(1, std::min(chunk_goal / run_tiles, runs));
    chunk_tiles = chunk_runs * run_tiles;
    group_runs = chunk_runs;
    groups = (runs + group_runs - 1) / group_runs;
  }
  void choose();
};

// The bounds are where the measured times of the modes cross (2 threads, L2 of 2 MiB a core).
template <int Depth, int Height, int Width>
void WeightsPlan<Depth, Height, Width>::choose() {
  constexpr int64_t kOwnPairs = 16;                     // 64 -> 64 channels
  constexpr int64_t kOwnSums = int64_t{16} << 20;       // floats, of all threads
  constexpr int64_t kSharedPlanes = int64_t{20} << 20;  // floats
  constexpr int64_t kResidentTiles = 12;
  mode = WeightsMode::own;
  passes = pairs() == 1 ? 1 : pairs() <= 4 && Width == 8 ? 2 : Width / 2;
  // The longest products that leave each thread some groups, so that the shares are even.
  int64_t chunk = pairs() <= 4 ? 16 : 32;
  cut_chunks(4, chunk);
  while (groups < 4 * team && chunk > 8) cut_chunks(4, chunk /= 2);
  if (groups < 2 * team || pairs() > kOwnPairs || sums_size() * team > kOwnSums) {
    mode = tiles <= kResidentTiles ? WeightsMode::resident : WeightsMode::shared;
    passes = 1;
    cut_chunks(8, 64);
  }
  if (mode == WeightsMode::resident) {
    group_runs = runs;
  } else if (mode == WeightsMode::shared) {
    int64_t per_run = kPoints * kLanes * (in_blocks * input_planes() + out_blocks * gradient_planes());
    int64_t most = std::max<int64_t>(1, kSharedPlanes / (per_run * chunk_runs)) * chunk_runs;
    int64_t count = (runs + most - 1) / most;
    group_runs = ((runs + count - 1) / count + chunk_runs - 1) / chunk_runs * chunk_runs;
  }
  groups = (runs + group_runs - 1) / group_runs;
  if (mode == WeightsMode::own) team = std::min(team, groups);  // so that each thread has sums
}

}  // namespace vnet
