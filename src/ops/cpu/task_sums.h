// What the edge and stride-2 kernels share around their tasks: per-channel sums kept by task, and when to stream.
#pragma once

#include <cstring>

#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace vnet {

// `count` zeros for each task. Tasks add to their own, so the total does not depend on which thread ran which task.
inline double* task_sums(int64_t tasks, int64_t count) {
  double* sums = scratch<double>(tasks * count);
  std::memset(sums, 0, tasks * count * sizeof(double));
  return sums;
}

// total[0..count) = the tasks' sums, added in the tasks' order.
inline void add_task_sums(int64_t tasks, int64_t count, const double* sums, double* total) {
  std::memset(total, 0, count * sizeof(double));
  for (int64_t task = 0; task < tasks; ++task) {
    for (int64_t k = 0; k < count; ++k) total[k] += sums[task * count + k];
  }
}

// Runs body(item, thread, sums) for each of `items`, several items a task. `sums` are `count` doubles that the body
// adds to, or null if `total`, where they end up, is null.
template <class Body>
void run_with_sums(int64_t items, int64_t count, double* total, Body body) {
  constexpr int64_t most_tasks = 512;
  int64_t tasks = std::min(items, most_tasks);
  double* sums = total ? task_sums(tasks, count) : nullptr;
  spread(tasks, [&](int64_t task, int thread) {
    for (int64_t item = items * task / tasks; item < items * (task + 1) / tasks; ++item) {
      body(item, thread, sums ? sums + task * count : nullptr);
    }
    fence();  // the body may have streamed
  });
  if (total) add_task_sums(tasks, count, sums, total);
}

// Non-temporal stores save reading what is overwritten, but the next kernel finds nothing in the cache: for volumes
// that the second-level cache cannot hold anyway.
constexpr int64_t kStreamVolumeBytes = int64_t{2} << 20;

template <class T>
bool worth_streaming(Shape shape, const T* to) {
  return shape.n * shape.c * shape.voxels() * static_cast<int64_t>(sizeof(T)) >= kStreamVolumeBytes &&
         reinterpret_cast<uintptr_t>(to) % 64 == 0;
}

}  // namespace vnet
