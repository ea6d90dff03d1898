// How the tiles of a volume are shared out.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "winograd_tile.h"

namespace vnet {

// Tiles that follow one another along depth, at one place in (h, w) of one sample.
struct TileRun {
  int64_t index;         // among all runs
  int64_t sample;
  int64_t d, h, w;       // first output voxel
  int64_t tiles;
  int64_t first_tile, first_plane;  // where its tiles and its input planes are among those of the task
};

// Cuts all columns of tiles into tasks of at most about `limit` tiles: pieces of a column, or several whole columns.
class TileTasks {
 public:
  // high, wide, deep: the outputs of a tile along d, h, w.
  TileTasks(Shape shape, int64_t deep, int64_t high, int64_t wide, int64_t limit)
      : deep_(deep), high_(high), wide_(wide), depth_((shape.d + deep - 1) / deep),
        rows_((shape.h + high - 1) / high), columns_((shape.w + wide - 1) / wide) {
    int64_t all = shape.n * rows_ * columns_;
    limit = std::max<int64_t>(limit, 1);
    if (depth_ > limit) {
      pieces_ = (depth_ + limit - 1) / limit;
      count_ = all * pieces_;
      run_tiles_ = (depth_ + pieces_ - 1) / pieces_;
      task_runs_ = 1;
    } else {
      int64_t together = std::min(all, limit / depth_);
      pieces_ = 1;
      count_ = (all + together - 1) / together;
      run_tiles_ = depth_;
      task_runs_ = (all + count_ - 1) / count_;
    }
    all_ = all;
  }

  int64_t count() const { return count_; }
  int64_t all_runs() const { return all_ * pieces_; }
  int64_t all_tiles() const { return all_ * depth_; }
  int64_t max_tiles() const { return task_runs_ * run_tiles_; }
  int64_t max_planes() const { return task_runs_ * planes(run_tiles_); }

  int64_t runs(int64_t task) const { return pieces_ > 1 ? 1 : first_run(task + 1) - first_run(task); }
  int64_t tiles(int64_t task) const { return pieces_ > 1 ? run(task, 0).tiles : runs(task) * depth_; }

  TileRun run(int64_t task, int64_t i) const {
    int64_t index = pieces_ > 1 ? task : first_run(task) + i;
    int64_t column = index / pieces_, piece = index % pieces_;
    int64_t begin = depth_ * piece / pieces_, end = depth_ * (piece + 1) / pieces_;
    int64_t w = column % columns_, h = column / columns_ % rows_, sample = column / columns_ / rows_;
    return {index, sample, begin * deep_, h * high_, w * wide_, end - begin, i * run_tiles_, i * planes(run_tiles_)};
  }

  // Input planes under `tiles` tiles of a run.
  int64_t planes(int64_t tiles) const { return tiles * deep_ + kTaps - 1; }

 private:
  int64_t first_run(int64_t task) const { return all_ * task / count_; }

  int64_t deep_, high_, wide_;
  int64_t depth_, rows_, columns_;  // the volume's size in tiles
  int64_t all_ = 0;                 // columns of tiles, of all samples
  int64_t pieces_ = 1, count_ = 0;
  int64_t run_tiles_ = 0, task_runs_ = 0;
};

}  // namespace vnet
