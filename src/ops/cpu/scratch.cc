#include "scratch.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

namespace vnet {

namespace {

constexpr size_t kLine = 64, kHugePage = size_t{2} << 20;

struct Chunk {
  char* data;
  size_t bytes;
};

// Filled one after the other. Several only until the operator ends in which the first became too small; then they make
// way for one that is large enough, so that from the second step on nothing is allocated.
std::vector<Chunk> chunks;
size_t current = 0, used = 0;  // the chunk that is being filled, and how far
size_t taken = 0, most = 0;     // bytes by all scopes that are open, and the most there ever were
size_t depth = 0;

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Says how much was asked for, in words that take no memory.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(size_t bytes) { std::snprintf(text_, sizeof text_, "%zu MiB wanted", bytes >> 20); }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[32];
};

Chunk allocate(size_t bytes) {
  if (chunks.empty()) bytes = std::max(bytes, most);
  bytes = rounded(bytes, kHugePage);
  void* data = nullptr;
  if (posix_memalign(&data, kHugePage, bytes) != 0) {
    throw OutOfMemory(bytes);
  }
  madvise(data, bytes, MADV_HUGEPAGE);
  return {static_cast<char*>(data), bytes};
}

}  // namespace

ScratchScope::ScratchScope() : chunk_(current), used_(used), taken_(taken) { ++depth; }

ScratchScope::~ScratchScope() {
  current = chunk_;
  used = used_;
  taken = taken_;
  if (--depth > 0 || chunks.size() < 2) return;
  for (const Chunk& chunk : chunks) std::free(chunk.data);
  chunks.clear();
}

void* scratch_bytes(size_t bytes) {
  bytes = rounded(std::max<size_t>(bytes, 1), kLine);
  while (current < chunks.size() && used + bytes > chunks[current].bytes) {
    ++current;
    used = 0;
  }
  if (current == chunks.size()) chunks.push_back(allocate(bytes));
  char* data = chunks[current].data + used;
  used += bytes;
  taken += bytes;
  most = std::max(most, taken);
  return data;
}

}  // namespace vnet
