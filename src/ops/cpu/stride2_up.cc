// From the small volume to the large one: the transposed 2x2x2 convolution with stride 2, and the data gradient of the
// other one. stride2.h has the idea.
#include "finish.h"
#include "rows.h"
#include "stride2.h"
#include "task_sums.h"

namespace vnet {

namespace {

// weight[s][l][tap] to packed[large block][depth and height tap][s][width tap][lane].
void pack_weights(const Stride2& geometry, const float* weight, float* packed) {
  int64_t small = geometry.small.c, blocks = geometry.large.blocks();
  share(small, [&](int64_t first, int64_t last, int) {
    for (int64_t s = first; s < last; ++s) {
      for (int64_t block = 0; block < blocks; ++block) {
        const float* from = weight + (s * blocks + block) * kLanes * kTaps2;
        float lanes[kTaps2][kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int tap = 0; tap < kTaps2; ++tap) lanes[tap][lane] = from[lane * kTaps2 + tap];
        }
        for (int tap = 0; tap < kTaps2; ++tap) {
          store(packed + ((block * 4 + tap / 2) * small + s) * kPair + tap % 2 * kLanes, load(lanes[tap]));
        }
      }
    }
  });
}

template <class T>
struct ToLarge {
  const Stride2& geometry;
  const T* small;
  const float* packed;  // weights
  T* large;
  const Epilogue<T>& epilogue;
  bool streaming;

  void run(int64_t index, float* memory, double* sums) const {
    Chunk2 chunk(geometry, index);
    pack_small(geometry, chunk, small, memory);
    int64_t target[kTaps2 / 2][kChunk];  // large voxels
    for (int tap = 0; tap < kTaps2 / 2; ++tap) {
      chunk_rows(geometry, chunk, [&](int64_t position, int64_t row, int64_t w, int64_t voxels) {
        int64_t voxel = large_voxel(geometry, row, w, tap / 2, tap % 2);
        for (int64_t k = 0; k < voxels; ++k) target[tap][position + k] = voxel + 2 * k;
      });
    }
    for (int64_t block = 0; block < geometry.large.blocks(); ++block) {
      FinishBlock<T> finish(epilogue, geometry.large, chunk.sample, block);
      T* volume = large + (chunk.sample * geometry.large.blocks() + block) * geometry.large.voxels() * kLanes;
      f16 sum = zero(), square = zero();
      for (int tap = 0; tap < kTaps2 / 2; ++tap) {
        const float* weight = packed + (block * 4 + tap) * geometry.small.c * kPair;
        for (int64_t voxel = 0; voxel < chunk.count; voxel += kRows2) {
          f16 total[2][kRows2];
#pragma GCC unroll 8
          for (int row = 0; row < kRows2; ++row) total[0][row] = total[1][row] = zero();
          multiply2(memory + voxel * kLanes, kChunk * kLanes, geometry.small.blocks(), weight, total);
          write(finish, target[tap] + voxel, std::min<int64_t>(kRows2, chunk.count - voxel), total, volume, &sum,
                &square);
        }
      }
      if (sums) {
        add_to(sums + block * kLanes, sum);
        add_to(sums + geometry.large.c + block * kLanes, square);
      }
    }
  }

 private:
  template <int Count>
  VNET_INLINE void write_run(const FinishBlock<T>& finish, int64_t voxel, f16* values, T* volume, f16* sum,
                             f16* square) const {
    T* to = volume + voxel * kLanes;
    finish.template apply<Count>(values, voxel);
#pragma GCC unroll 8
    for (int k = 0; k < Count; ++k) {
      *sum = *sum + values[k];
      *square = fma(values[k], values[k], *square);
      if (streaming) {
        stream(to + k * kLanes, values[k]);
      } else {
        store(to + k * kLanes, values[k]);
      }
    }
  }

  VNET_INLINE void write(const FinishBlock<T>& finish, const int64_t* target, int64_t count, f16 total[2][kRows2],
                         T* volume, f16* sum, f16* square) const {
    if (count == kRows2 && target[kRows2 - 1] == target[0] + 2 * (kRows2 - 1)) {
      constexpr int half = kRows2 / 2;
#pragma GCC unroll 2
      for (int start = 0; start < kRows2; start += half) {
        f16 values[kRows2];
#pragma GCC unroll 4
        for (int row = 0; row < half; ++row) {
          values[2 * row] = total[0][start + row];
          values[2 * row + 1] = total[1][start + row];
        }
        write_run<kRows2>(finish, target[start], values, volume, sum, square);
      }
    } else {
      for (int64_t row = 0; row < count; ++row) {
        f16 values[2] = {total[0][row], total[1][row]};
        write_run<2>(finish, target[row], values, volume, sum, square);
      }
    }
  }
};

template <class T>
void small_to_large(const Stride2& geometry, const T* small, const float* weight, T* large,
                    const Epilogue<T>& epilogue) {
  ScratchScope scope;
  float* packed = scratch(geometry.weights());
  pack_weights(geometry, weight, packed);
  int64_t floats = geometry.small_floats();
  float* memory = scratch(threads() * floats);
  ToLarge<T> kernel{geometry, small, packed, large, epilogue, worth_streaming(geometry.large, large)};
  run_with_sums(geometry.chunks(), 2 * geometry.large.c, epilogue.sums, [&](int64_t chunk, int thread, double* sums) {
    kernel.run(chunk, memory + thread * floats, sums);
  });
}

}  // namespace

template <class T>
void up_forward(Shape in, int64_t channels, const T* x, const float* weight, T* y, const Epilogue<T>& epilogue) {
  small_to_large(Stride2(in, channels), x, weight, y, epilogue);
}

template <class T>
void down_backward_data(Shape in, int64_t channels, const T* dy, const float* weight, T* dx, const T* add) {
  Stride2 geometry = Stride2::below(in, channels);
  Epilogue<T> epilogue;
  epilogue.residual = add;
  small_to_large(geometry, dy, weight, dx, epilogue);
}

template void up_forward(Shape, int64_t, const float*, const float*, float*, const Epilogue<float>&);
template void up_forward(Shape, int64_t, const bf16*, const float*, bf16*, const Epilogue<bf16>&);
template void down_backward_data(Shape, int64_t, const float*, const float*, float*, const float*);
template void down_backward_data(Shape, int64_t, const bf16*, const float*, bf16*, const bf16*);

}  // namespace vnet
