// Copies of chunks of voxels for the stride-2 kernels; stride2.h has the layouts.
#include "stride2.h"

#include <cstring>

namespace vnet {

namespace {

VNET_INLINE void clear_tail(const Chunk2& chunk, float* line) {
  for (int64_t voxel = chunk.count; voxel < padded_count(chunk); ++voxel) store(line + voxel * kLanes, zero());
}

}  // namespace

template <class T>
void pack_small(const Stride2& geometry, const Chunk2& chunk, const T* small, float* out) {
  for (int64_t block = 0; block < geometry.small.blocks(); ++block, out += kChunk * kLanes) {
    int64_t volume = (chunk.sample * geometry.small.blocks() + block) * geometry.small.voxels();
    const T* from = small + (volume + chunk.first) * kLanes;
    for (int64_t voxel = 0; voxel < chunk.count; ++voxel) store(out + voxel * kLanes, load(from + voxel * kLanes));
    clear_tail(chunk, out);
  }
}

template <class T>
void pack_large(const Stride2& geometry, const Chunk2& chunk, const T* large, float* out) {
  int64_t blocks = geometry.large.blocks();
  for (int64_t block = 0; block < blocks; ++block) {
    const T* volume = large + (chunk.sample * blocks + block) * geometry.large.voxels() * kLanes;
    for (int tap = 0; tap < kTaps2; tap += 2) {
      float* even = out + (tap * blocks + block) * kChunk * kLanes;
      float* odd = even + blocks * kChunk * kLanes;
      chunk_rows(geometry, chunk, [&](int64_t position, int64_t row, int64_t w, int64_t voxels) {
        const T* from = volume + large_voxel(geometry, row, w, tap / 4, tap / 2 % 2) * kLanes;
        for (int64_t k = 0; k < voxels; ++k) {
          store(even + (position + k) * kLanes, load(from + 2 * k * kLanes));
          store(odd + (position + k) * kLanes, load(from + (2 * k + 1) * kLanes));
        }
      });
      clear_tail(chunk, even);
      clear_tail(chunk, odd);
    }
  }
}

template void pack_small(const Stride2&, const Chunk2&, const float*, float*);
template void pack_small(const Stride2&, const Chunk2&, const bf16*, float*);
template void pack_large(const Stride2&, const Chunk2&, const float*, float*);
template void pack_large(const Stride2&, const Chunk2&, const bf16*, float*);

}  // namespace vnet
