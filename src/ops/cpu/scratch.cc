#include "scratch.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <new>

namespace vnet {

namespace {

constexpr size_t kLine = 64, kHugePage = size_t{2} << 20, kMost = size_t{1} << 60;
constexpr int kMostChunks = 64;

struct Chunk {
  char* data;
  size_t bytes;
};

// Filled one after the other. Several only until the operator ends in which the first became too small; then they make
// way for one that is large enough, so that from the second step on nothing is allocated.
Chunk chunks[kMostChunks];
int count = 0, current = 0;  // chunks, and the one that is being filled
size_t used = 0;             // how far
size_t taken = 0, most = 0;  // bytes by all scopes that are open, and the most there ever were
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

// Straight from the system, so that what is released is really given back.
Chunk allocate(size_t bytes) {
  if (count == 0) bytes = std::max(bytes, most);
  bytes = rounded(bytes, kHugePage);
  size_t all = bytes + kHugePage;
  void* start = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw OutOfMemory(bytes);
  char* begin = static_cast<char*>(start);
  char* data = begin + (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (data > begin) munmap(begin, static_cast<size_t>(data - begin));
  munmap(data + bytes, static_cast<size_t>(begin + all - (data + bytes)));
  madvise(data, bytes, MADV_HUGEPAGE);
  return {data, bytes};
}

}  // namespace

ScratchScope::ScratchScope() : chunk_(current), used_(used), taken_(taken) { ++depth; }

ScratchScope::~ScratchScope() {
  current = chunk_;
  used = used_;
  taken = taken_;
  if (--depth > 0 || count < 2) return;
  for (int i = 0; i < count; ++i) munmap(chunks[i].data, chunks[i].bytes);
  count = 0;
}

void* scratch_bytes(size_t bytes) {
  if (bytes > kMost) throw OutOfMemory(bytes);
  bytes = rounded(std::max<size_t>(bytes, 1), kLine);
  while (current < count && bytes > chunks[current].bytes - used) {
    ++current;
    used = 0;
  }
  if (current == kMostChunks) throw OutOfMemory(bytes);
  if (current == count) {
    chunks[count] = allocate(bytes);
    ++count;
  }
  char* data = chunks[current].data + used;
  used += bytes;
  taken += bytes;
  most = std::max(most, taken);
  return data;
}

int64_t scratch_kept() {
  int64_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += static_cast<int64_t>(chunks[i].bytes);
  return bytes;
}

}  // namespace vnet
