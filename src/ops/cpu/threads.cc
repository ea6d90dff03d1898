#include "threads.h"

namespace vnet {

namespace {

int thread_count = 1;

}  // namespace

int threads() { return thread_count; }

void set_threads(int count) {
  // Kernels rely on getting the team they ask for: OpenMP must neither shrink it by load nor by a limit.
  omp_set_dynamic(0);
  thread_count = std::max(1, std::min(count, omp_get_thread_limit()));
}

}  // namespace vnet
