// From the large volume to the small one: the 2x2x2 convolution with stride 2, and the data gradient of the transposed
// one. stride2.h has the idea.
#include "finish.h"
#include "rows.h"
#include "stride2.h"
#include "task_sums.h"

namespace vnet {

namespace {

// weight[s][l][tap] to packed[pair of small blocks][tap][l][block of the pair][lane]; a missing block is zero.
void pack_weights(const Stride2& geometry, const float* weight, float* packed) {
  int64_t small = geometry.small.c, large = geometry.large.c;
  share((small + kPair - 1) / kPair * 2, [&](int64_t first, int64_t last, int) {
    for (int64_t block = first; block < last; ++block) {
      float* out = packed + block / 2 * kTaps2 * large * kPair + block % 2 * kLanes;
      for (int64_t l = 0; l < large; ++l) {
        float lanes[kTaps2][kLanes] = {};
        if (block * kLanes < small) {
          for (int lane = 0; lane < kLanes; ++lane) {
            const float* from = weight + ((block * kLanes + lane) * large + l) * kTaps2;
            for (int tap = 0; tap < kTaps2; ++tap) lanes[tap][lane] = from[tap];
          }
        }
        for (int tap = 0; tap < kTaps2; ++tap) store(out + (tap * large + l) * kPair, load(lanes[tap]));
      }
    }
  });
}

template <class T>
struct ToSmall {
  const Stride2& geometry;
  const T* large;
  const float* packed;  // weights
  T* small;
  const Epilogue<T>& epilogue;
  bool streaming;

  void run(int64_t index, float* memory, double* sums) const {
    Chunk2 chunk(geometry, index);
    pack_large(geometry, chunk, large, memory);
    int64_t blocks = geometry.small.blocks();
    for (int64_t block = 0; block < blocks; block += 2) {
      const float* weight = packed + block / 2 * kTaps2 * geometry.large.c * kPair;
      FinishBlock<T> finish0(epilogue, geometry.small, chunk.sample, block);
      FinishBlock<T> finish1(epilogue, geometry.small, chunk.sample, std::min(block + 1, blocks - 1));
      f16 sum[2] = {zero(), zero()}, square[2] = {zero(), zero()};
      for (int64_t voxel = 0; voxel < chunk.count; voxel += kRows2) {
        f16 total[2][kRows2];
#pragma GCC unroll 8
        for (int row = 0; row < kRows2; ++row) total[0][row] = total[1][row] = zero();
        multiply2(memory + voxel * kLanes, kChunk * kLanes, kTaps2 * geometry.large.blocks(), weight, total);
        int64_t count = std::min<int64_t>(kRows2, chunk.count - voxel);
        write(finish0, chunk, block, voxel, count, total[0], &sum[0], &square[0]);
        if (block + 1 < blocks) write(finish1, chunk, block + 1, voxel, count, total[1], &sum[1], &square[1]);
      }
      for (int k = 0; sums && k < std::min<int64_t>(2, blocks - block); ++k) {
        add_to(sums + (block + k) * kLanes, sum[k]);
        add_to(sums + geometry.small.c + (block + k) * kLanes, square[k]);
      }
    }
  }

 private:
  VNET_INLINE void write(const FinishBlock<T>& finish, const Chunk2& chunk, int64_t block, int64_t position,
                         int64_t count, f16* values, f16* sum, f16* square) const {
    int64_t voxel = chunk.first + position;
    T* to = small + ((chunk.sample * geometry.small.blocks() + block) * geometry.small.voxels() + voxel) * kLanes;
    if (count == kRows2) {
      finish.template apply<kRows2>(values, voxel);
#pragma GCC unroll 8
      for (int k = 0; k < kRows2; ++k) {
        *sum = *sum + values[k];
        *square = fma(values[k], values[k], *square);
        if (streaming) {
          stream(to + k * kLanes, values[k]);
        } else {
          store(to + k * kLanes, values[k]);
        }
      }
    } else {
      for (int64_t k = 0; k < count; ++k) {
        f16 value = finish.apply(values[k], voxel + k);
        *sum = *sum + value;
        *square = fma(value, value, *square);
        store(to + k * kLanes, value);
      }
    }
  }
};

template <class T>
void large_to_small(const Stride2& geometry, const T* large, const float* weight, T* small,
                    const Epilogue<T>& epilogue) {
  ScratchScope scope;
  int64_t pairs = (geometry.small.c + kPair - 1) / kPair;
  float* packed = scratch(pairs * kPair * geometry.large.c * kTaps2);
  pack_weights(geometry, weight, packed);
  int64_t floats = geometry.large_floats();
  float* memory = scratch(threads() * floats);
  ToSmall<T> kernel{geometry, large, packed, small, epilogue, worth_streaming(geometry.small, small)};
  run_with_sums(geometry.chunks(), 2 * geometry.small.c, epilogue.sums, [&](int64_t chunk, int thread, double* sums) {
    kernel.run(chunk, memory + thread * floats, sums);
  });
}

}  // namespace

template <class T>
void down_forward(Shape in, int64_t channels, const T* x, const float* weight, T* y, const Epilogue<T>& epilogue) {
  Stride2 geometry = Stride2::below(in, channels);
  large_to_small(geometry, x, weight, y, epilogue);
}

template <class T>
void up_backward_data(Shape in, int64_t channels, const T* dy, const float* weight, T* dx, const T* add) {
  Epilogue<T> epilogue;
  epilogue.residual = add;
  large_to_small(Stride2(in, channels), dy, weight, dx, epilogue);
}

template void down_forward(Shape, int64_t, const float*, const float*, float*, const Epilogue<float>&);
template void down_forward(Shape, int64_t, const bf16*, const float*, bf16*, const Epilogue<bf16>&);
template void up_backward_data(Shape, int64_t, const float*, const float*, float*, const float*);
template void up_backward_data(Shape, int64_t, const bf16*, const float*, bf16*, const bf16*);

}  // namespace vnet
