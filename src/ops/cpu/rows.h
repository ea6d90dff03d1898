// Walks over shares of rows, and sums that don't lose precision: what the memory-bound kernels have in common.
#pragma once

#include <algorithm>
#include <cstdint>

#include "threads.h"
#include "vec.h"

namespace vnet {

// Cuts the share [first, last) of rows of `length` elements into pieces, each within a row: piece(row, begin, end).
template <class Piece>
VNET_INLINE void by_row(int64_t first, int64_t last, int64_t length, Piece piece) {
  while (first < last) {
    int64_t row = first / length, begin = first % length;
    int64_t end = std::min(length, begin + last - first);
    piece(row, begin, end);
    first += end - begin;
  }
}

// The same for the share of each thread: piece(row, begin, end, thread).
template <class Piece>
void share_rows(int64_t rows, int64_t length, Piece piece) {
  share(rows * length, [&](int64_t first, int64_t last, int thread) {
    by_row(first, last, length, [&](int64_t row, int64_t begin, int64_t end) { piece(row, begin, end, thread); });
    fence();  // for streamed results
  });
}

// Calls step(i, count) for the vectors of [begin, end): sixteen elements each, fewer in the last one.
template <class Step>
VNET_INLINE void by_vector(int64_t begin, int64_t end, Step step) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) step(i, int64_t{kLanes});
  if (i < end) step(i, end - i);
}

// Elements (voxels, or vectors) that are summed in fp32 before the sum is added to a double: short enough that fp32's
// rounding doesn't show, long enough that the conversion costs nothing.
constexpr int64_t kRun = 128;

// total[lane] += x[lane]
VNET_INLINE void add_to(double* total, f16 x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int lane = 0; lane < kLanes; ++lane) total[lane] += lanes[lane];
}

// Sum of all lanes, in double.
VNET_INLINE double wide_sum(f16 x) {
  float lanes[kLanes];
  store(lanes, x);
  double total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += lanes[lane];
  return total;
}

// Results from this size on go past the caches: they would hardly be there when they are read, and a normal store
// first reads the line that it overwrites. Several times the L2 caches; L3 is shared with others and little faster
// than memory (one Xeon core, fp32 volumes of 16 and 128 MiB: up to 30 % less time a pass, less where exponentials
// count; bf16 gains little).
constexpr int64_t kStreamBytes = int64_t{16} << 20;

// Whether `count` elements are streamed: lines have to be whole and aligned.
template <class T>
inline bool streams(const T* p, int64_t count) {
  return p && count * static_cast<int64_t>(sizeof(T)) >= kStreamBytes && reinterpret_cast<uintptr_t>(p) % 64 == 0;
}

// Asks for what will be read some vectors later. A core's own look-ahead doesn't reach far enough in loops with
// exponentials (15 to 25 % less time; 1 KiB is too near, 4 KiB too far).
constexpr int64_t kFetchAhead = 2048;

template <class T>
VNET_INLINE void fetch(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kFetchAhead);
}

template <class T>
VNET_INLINE void put(bool streamed, T* p, f16 x) {
  streamed ? stream(p, x) : store(p, x);
}

// The first `count` (1 to 16) elements; the other lanes are `rest`.
template <class T>
VNET_INLINE f16 load_part(const T* p, int64_t count, float rest = 0.0f) {
  if (count >= kLanes) return load(p);
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, rest);
  for (int64_t lane = 0; lane < count; ++lane) lanes[lane] = to_float(p[lane]);
  return load(lanes);
}

// Stores the first `count` lanes.
VNET_INLINE void store_part(float* p, f16 x, int64_t count) {
  if (count >= kLanes) return store(p, x);
  float lanes[kLanes];
  store(lanes, x);
  for (int64_t lane = 0; lane < count; ++lane) p[lane] = lanes[lane];
}

}  // namespace vnet
