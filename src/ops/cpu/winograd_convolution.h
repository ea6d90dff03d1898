// One 5x5x5 Winograd convolution: what its two forms (winograd_fused.h, winograd_cooperative.h) have in common.
#pragma once

#include "scratch.h"
#include "winograd_gemm.h"
#include "winograd_planes.h"
#include "winograd_tasks.h"

namespace vnet {

// How far ahead the input is brought into the caches.
constexpr int64_t kPlanesAhead = 1;
// Tiles that a product in place copies first: a part of L1, and the most channels that there can be.
constexpr int64_t kCopiedFloats = 64 * 128;
// Outputs above this size don't stay in the caches anyway.
constexpr int64_t kStreamedBytes = int64_t{8} << 20;

template <class T, int AlphaD, int AlphaH, int AlphaW>
class DataConvolution {
 public:
  static constexpr int kDeep = AlphaD - kTaps + 1, kHigh = AlphaH - kTaps + 1, kWide = AlphaW - kTaps + 1;
  static constexpr int kPoints = AlphaH * AlphaW;
  // A plane's stride is padded, since planes a power of two apart would share cache sets.
  static constexpr int64_t kPlane = (kPoints + 1) * kLanes;

  DataConvolution(Shape in, int64_t channels, const T* x, const float* weight, KernelUse use, T* y,
                  const Epilogue<T>& epilogue)
      : in_(in), out_{in.n, channels, in.d, in.h, in.w}, x_(x), y_(y), epilogue_(epilogue), weight_(weight), use_(use),
        layout_(in.c, channels, kernel_panel(channels)), in_blocks_(in.blocks()), out_blocks_(channels / kLanes),
        streamed_(out_.n * out_.c * out_.voxels() * static_cast<int64_t>(sizeof(T)) > kStreamedBytes &&
                  reinterpret_cast<uintptr_t>(y) % 64 == 0) {}

  void run() {
    constexpr int kAllPoints = AlphaD * kPoints;
    weights_ = scratch((kAllPoints + 1) * layout_.stride);
    transform_weights<AlphaD, AlphaH, AlphaW>(weight_, use_, layout_, weights_);
    bool fused = kAllPoints * in_.c * out_.c <= kFusedFloats;
    int64_t limit = fused ? kFusedTiles : kCooperativeTiles;
    if (fused) {
      // Few tiles: so many a task that the threads have equally many tasks.
      int64_t tiles = TileTasks(in_, kDeep, kHigh, kWide, limit).all_tiles();
      int64_t parts = (tiles + limit - 1) / limit, team = threads();
      parts = (parts + team - 1) / team * team;
      if (parts < kFewTasks * team) limit = (tiles + parts - 1) / parts;
    }
    TileTasks tasks(in_, kDeep, kHigh, kWide, limit);
    sums_ = nullptr;
    if (epilogue_.sums) {
      sums_ = scratch<double>(tasks.all_runs() * 2 * out_.c);
    }
    if (fused) {
      run_fused(tasks);
    } else {
      run_cooperative(tasks);
    }
    if (epilogue_.sums) add_sums(tasks.all_runs());
  }

 private:
  // Transformed weights, at 8^3 points of 64 x 64 channels, that a thread can read again for each few tiles.
  static constexpr int64_t kFusedFloats = int64_t{512} * 64 * 64;
  // Tiles of a task. More of them read the weights less often, but no longer fit into L2 (fused) or waste L3.
  static constexpr int64_t kFusedTiles = 16, kCooperativeTiles = 64;
  static constexpr int64_t kFewTasks = 8;  // a thread, below which even shares matter

  const T* input_block(int64_t sample, int64_t block) const {
    return x_ + (sample * in_blocks_ + block) * in_.voxels() * kLanes;
  }

  // Where a run's results of one channel block go; its sums start at zero.
  PlaneSink<T> sink(const TileRun& run, int64_t block) const {
    double* sums = nullptr;
    if (sums_) {
      sums = sums_ + run.index * 2 * out_.c + block * kLanes;
      std::fill(sums, sums + kLanes, 0.0);
      std::fill(sums + out_.c, sums + out_.c + kLanes, 0.0);
    }
    T* to = y_ + (run.sample * out_blocks_ + block) * out_.voxels() * kLanes;
    return {to, out_, FinishBlock<T>(epilogue_, out_, run.sample, block), streamed_, sums, out_.c};
  }

  // Adds the runs' sums in order.
  void add_sums(int64_t runs) const {
    double* total = epilogue_.sums;
    int64_t width = 2 * out_.c;
    std::fill(total, total + width, 0.0);
    for (int64_t run = 0; run < runs; ++run) {
      for (int64_t i = 0; i < width; ++i) total[i] += sums_[run * width + i];
    }
  }

  void run_fused(const TileTasks& tasks);
  void fused_task(const TileTasks& tasks, int64_t task, float* planes, float* results, float* tiles, float* products);
  void run_cooperative(const TileTasks& tasks);
  void transform_run(const TileRun& run, int64_t block, float* out, int64_t point_stride) const;
  void multiply_point(float* tiles, int64_t rows, const float* weights) const;
  void finish_run(const TileRun& run, int64_t block, const float* in, int64_t point_stride) const;

  Shape in_, out_;
  const T* x_;
  T* y_;
  Epilogue<T> epilogue_;
  const float* weight_;
  KernelUse use_;
  KernelLayout layout_;
  int64_t in_blocks_, out_blocks_;
  bool streamed_;
  float* weights_ = nullptr;
  double* sums_ = nullptr;
};

}  // namespace vnet
