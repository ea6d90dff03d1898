// What the 2x2x2 convolutions with stride 2 and the transposed ones share.
//
// Both tie a large volume to a small one of half its edges: small voxel v belongs to the eight large voxels 2v + tap,
// and to no others. The weights are (small channels, large channels, 2, 2, 2), that is (out, in, ...) for down and
// (in, out, ...) for up, so there are just three sums:
//
//     small[s][v] = sum over l, tap of weight[s][l][tap] * large[l][2v + tap]      down forward, up's data gradient
//     large[l][2v + tap] = sum over s of weight[s][l][tap] * small[s][v]           up forward, down's data gradient
//     dweight[s][l][tap] = sum over v of small[s][v] * large[l][2v + tap]          both weight gradients
//
// Each is a matrix product over chunks of small voxels, whose operands are first copied, as fp32, to where the
// micro-kernel reads them one after the other: small chunks as [block][voxel][lane], large ones as
// [tap][block][voxel][lane].
#pragma once

#include <stdexcept>

#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace vnet {

constexpr int kTaps2 = 8;        // 2 x 2 x 2
constexpr int64_t kChunk = 32;   // small voxels

// Voxels (or channels) times pairs of sixteen channels whose sums are in registers at a time.
constexpr int kRows2 = kRegisters >= 32 ? 8 : 2;
constexpr int kPair = 2 * kLanes;

struct Stride2 {
  Shape small, large;
  int64_t chunks_per_sample;

  Stride2(Shape small_shape, int64_t large_channels)
      : small(small_shape), large{small.n, large_channels, 2 * small.d, 2 * small.h, 2 * small.w},
        chunks_per_sample((small.voxels() + kChunk - 1) / kChunk) {
    if (small.c % kLanes || large.c % kLanes) throw std::invalid_argument("channels must be multiples of 16");
  }
  static Stride2 below(Shape large, int64_t small_channels) {
    if (large.d % 2 || large.h % 2 || large.w % 2) throw std::invalid_argument("stride 2 needs even sizes");
    return Stride2({large.n, small_channels, large.d / 2, large.h / 2, large.w / 2}, large.c);
  }

  int64_t chunks() const { return small.n * chunks_per_sample; }
  int64_t small_floats() const { return small.c * kChunk; }           // a packed chunk
  int64_t large_floats() const { return kTaps2 * large.c * kChunk; }
  int64_t weights() const { return small.c * large.c * kTaps2; }
};

// Where the chunk's voxels are.
struct Chunk2 {
  int64_t sample, first, count;  // small voxels [first, first + count) of the sample

  Chunk2(const Stride2& geometry, int64_t chunk)
      : sample(chunk / geometry.chunks_per_sample), first(chunk % geometry.chunks_per_sample * kChunk),
        count(std::min(kChunk, geometry.small.voxels() - first)) {}
};

// Calls run(position in the chunk, small row, first voxel in the row, voxels) for each row the chunk has a part of;
// a row is depth * small.h + height.
template <class Run>
VNET_INLINE void chunk_rows(const Stride2& geometry, const Chunk2& chunk, Run run) {
  int64_t width = geometry.small.w, row = chunk.first / width, w = chunk.first % width;
  for (int64_t position = 0; position < chunk.count; ++row, w = 0) {
    int64_t voxels = std::min(width - w, chunk.count - position);
    run(position, row, w, voxels);
    position += voxels;
  }
}

// The first of the two large voxels of small voxel w in `row` that have these depth and height taps.
VNET_INLINE int64_t large_voxel(const Stride2& geometry, int64_t row, int64_t w, int kd, int kh) {
  int64_t d = 2 * (row / geometry.small.h) + kd, h = 2 * (row % geometry.small.h) + kh;
  return (d * geometry.large.h + h) * geometry.large.w + 2 * w;
}

// Copies of a chunk; voxels from chunk.count up to a multiple of 8 are zero.
template <class T>
void pack_small(const Stride2& geometry, const Chunk2& chunk, const T* small, float* out);
template <class T>
void pack_large(const Stride2& geometry, const Chunk2& chunk, const T* large, float* out);

inline int64_t padded_count(const Chunk2& chunk) { return (chunk.count + 7) / 8 * 8; }

// total[column][row] += sum over k of a[row][k] * b[k][column][lane], with a[block][voxel][lane of k], for `blocks`
// times sixteen k.
VNET_INLINE void multiply2(const float* a, int64_t a_stride, int64_t blocks, const float* b, f16 total[2][kRows2]) {
  for (int64_t block = 0; block < blocks; ++block, a += a_stride, b += kLanes * kPair) {
#pragma GCC unroll 4
    for (int k = 0; k < kLanes; ++k) {
      f16 b0 = load(b + k * kPair), b1 = load(b + k * kPair + kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < kRows2; ++row) {
        f16 value = set1(a[row * kLanes + k]);
        total[0][row] = fma(value, b0, total[0][row]);
        total[1][row] = fma(value, b1, total[1][row]);
      }
    }
  }
}

}  // namespace vnet
