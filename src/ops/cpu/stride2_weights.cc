// The weight gradient of the 2x2x2 convolution with stride 2 and of the transposed one. stride2.h has the idea.
//
// Each thread takes a share of the chunks. The products of a chunk are summed in registers and then added to the
// thread's total, which keeps fp32's rounding small; the threads' totals are added in their order.
#include <cstring>

#include "stride2.h"

namespace vnet {

namespace {

// total[row][block of the pair][lane] += sum over voxels of large[voxel][row] * small[block][voxel][lane]
VNET_INLINE void add_outer_products(const float* large, const float* small, int64_t small_stride, int64_t voxels,
                                    float* total) {
  f16 sum[kRows2][2];
#pragma GCC unroll 8
  for (int row = 0; row < kRows2; ++row) sum[row][0] = sum[row][1] = zero();
#pragma GCC unroll 4
  for (int64_t voxel = 0; voxel < voxels; ++voxel) {
    f16 first = load(small + voxel * kLanes), second = load(small + small_stride + voxel * kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows2; ++row) {
      f16 value = set1(large[voxel * kLanes + row]);
      sum[row][0] = fma(value, first, sum[row][0]);
      sum[row][1] = fma(value, second, sum[row][1]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows2; ++row) {
    float* to = total + row * kPair;
    store(to, load(to) + sum[row][0]);
    store(to + kLanes, load(to + kLanes) + sum[row][1]);
  }
}

// total[pair of small blocks][tap][l][block of the pair][lane] of the chunks [first, last).
template <class T>
void add_chunks(const Stride2& geometry, int64_t first, int64_t last, const T* small, const T* large, int64_t pairs,
                float* memory, float* total) {
  float* packed_small = memory;
  float* packed_large = memory + pairs * kPair * kChunk;
  // The missing block of an odd count.
  std::memset(packed_small + geometry.small_floats(), 0, (pairs * kPair - geometry.small.c) * kChunk * sizeof(float));
  std::memset(total, 0, pairs * kPair * geometry.large.c * kTaps2 * sizeof(float));
  for (int64_t index = first; index < last; ++index) {
    Chunk2 chunk(geometry, index);
    pack_small(geometry, chunk, small, packed_small);
    pack_large(geometry, chunk, large, packed_large);
    float* to = total;
    for (int64_t pair = 0; pair < pairs; ++pair) {
      for (int64_t line = 0; line < kTaps2 * geometry.large.blocks(); ++line) {
        for (int row = 0; row < kLanes; row += kRows2, to += kRows2 * kPair) {
          add_outer_products(packed_large + line * kChunk * kLanes + row, packed_small + pair * kPair * kChunk,
                             kChunk * kLanes, chunk.count, to);
        }
      }
    }
  }
}

template <class T>
void stride2_weight_gradient(const Stride2& geometry, const T* small, const T* large, float* dweight) {
  ScratchScope scope;
  int64_t pairs = (geometry.small.c + kPair - 1) / kPair, channels = geometry.large.c;
  int64_t total_floats = pairs * kPair * channels * kTaps2;
  int64_t memory_floats = pairs * kPair * kChunk + geometry.large_floats();
  float* totals = scratch(threads() * total_floats);
  float* memory = scratch(threads() * memory_floats);
  share(geometry.chunks(), [&](int64_t first, int64_t last, int thread) {
    add_chunks(geometry, first, last, small, large, pairs, memory + thread * memory_floats,
               totals + thread * total_floats);
  });
  int64_t parts = std::min<int64_t>(threads(), geometry.chunks());
  share(geometry.small.blocks() * channels, [&](int64_t first, int64_t last, int) {
    for (int64_t item = first; item < last; ++item) {
      int64_t block = item / channels, l = item % channels;
      float lanes[kTaps2][kLanes];
      for (int tap = 0; tap < kTaps2; ++tap) {
        const float* from = totals + ((block / 2 * kTaps2 + tap) * channels + l) * kPair + block % 2 * kLanes;
        f16 sum = load(from);
        for (int64_t part = 1; part < parts; ++part) sum = sum + load(from + part * total_floats);
        store(lanes[tap], sum);
      }
      for (int lane = 0; lane < kLanes; ++lane) {
        float* to = dweight + ((block * kLanes + lane) * channels + l) * kTaps2;
        for (int tap = 0; tap < kTaps2; ++tap) to[tap] = lanes[tap][lane];
      }
    }
  });
}

}  // namespace

template <class T>
void down_backward_weights(Shape in, int64_t channels, const T* x, const T* dy, float* dweight) {
  stride2_weight_gradient(Stride2::below(in, channels), dy, x, dweight);
}

template <class T>
void up_backward_weights(Shape in, int64_t channels, const T* x, const T* dy, float* dweight) {
  stride2_weight_gradient(Stride2(in, channels), x, dy, dweight);
}

template void down_backward_weights(Shape, int64_t, const float*, const float*, float*);
template void down_backward_weights(Shape, int64_t, const bf16*, const bf16*, float*);
template void up_backward_weights(Shape, int64_t, const float*, const float*, float*);
template void up_backward_weights(Shape, int64_t, const bf16*, const bf16*, float*);

}  // namespace vnet
