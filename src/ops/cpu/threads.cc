#include "threads.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace vnet {

namespace {

int thread_count = 1;

struct Buffer {
  float* data = nullptr;
  size_t bytes = 0;
};
Buffer buffers[static_cast<int>(Slot::count)];

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

int threads() { return thread_count; }

void set_threads(int count) {
  // Kernels rely on getting the team they ask for: OpenMP must neither shrink it by load nor by a limit.
  omp_set_dynamic(0);
  thread_count = std::max(1, std::min(count, omp_get_thread_limit()));
}

float* scratch(Slot slot, size_t floats) {
  Buffer& buffer = buffers[static_cast<int>(slot)];
  size_t bytes = floats * sizeof(float);
  if (bytes > buffer.bytes) {
    std::free(buffer.data);
    buffer = Buffer();
    size_t alignment = bytes >= kHugePage / 2 ? kHugePage : 64;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void* data = nullptr;
    if (posix_memalign(&data, alignment, rounded) != 0) throw std::bad_alloc();
    if (alignment == kHugePage) madvise(data, rounded, MADV_HUGEPAGE);
    buffer = Buffer{static_cast<float*>(data), rounded};
  }
  return buffer.data;
}

}  // namespace vnet
