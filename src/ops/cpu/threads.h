// Threads and task shares that the kernels have in common.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace vnet {

// Number of threads that a kernel uses; set once by the back end.
int threads();
void set_threads(int count);

// Runs body(first, last, thread) once a thread with a contiguous share of [0, count). The shares depend on `count`
// and threads() alone, so sums that are kept by thread are the same in each run.
template <class Body>
void share(int64_t count, Body body) {
  int team = static_cast<int>(std::min<int64_t>(threads(), std::max<int64_t>(count, 1)));
#pragma omp parallel num_threads(team)
  {
    int64_t thread = omp_get_thread_num(), size = omp_get_num_threads();
    body(count * thread / size, count * (thread + 1) / size, static_cast<int>(thread));
  }
}

// Runs body(task, thread) for each task of [0, count), handed out as threads become free: for tasks of uneven
// length whose results don't depend on who computes them.
template <class Body>
void spread(int64_t count, Body body) {
#pragma omp parallel num_threads(threads())
  {
    int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < count; ++task) body(task, thread);
  }
}

}  // namespace vnet
