// Moving volumes: joining and splitting channel blocks, sums, and changing between plain and blocked layouts.
#include <cstring>

#include "kernels.h"
#include "rows.h"
#include "threads.h"

namespace vnet {

namespace {

// to[0, voxels) = from * keep for a piece of a channel block.
template <class T>
VNET_INLINE void scale_voxels(bool streamed, const T* from, const float* keep, T* to, int64_t voxels) {
  f16 factor = keep ? load(keep) : set1(1.0f);
  for (int64_t i = 0; i < voxels; ++i) {
    fetch(from + i * kLanes);
    put(streamed, to + i * kLanes, load(from + i * kLanes) * factor);
  }
}

// The last blocks of a sample with `all_blocks` of them: where block `row` of a volume of `blocks` a sample lies.
inline int64_t last_blocks(int64_t row, int64_t blocks, int64_t all_blocks) {
  return row / blocks * all_blocks + all_blocks - blocks + row % blocks;
}

// Sixteen vectors of sixteen floats, transposed. Four rounds of interleaving row i with row i + 8 exchange the four
// bits of the row's number with those of the column's.
typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Order __attribute__((vector_size(64)));

VNET_INLINE void transpose(Vector* rows) {
  constexpr Order kFirst = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  constexpr Order kSecond = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  for (int round = 0; round < 4; ++round) {
    Vector next[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + 8], kFirst);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + 8], kSecond);
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

}  // namespace

template <class T>
void join(Shape shape, const T* x, const float* keep, T* out, int64_t out_blocks) {
  int64_t blocks = shape.blocks(), voxels = shape.voxels();
  bool streamed = streams(out, shape.n * blocks * voxels * kLanes);
  share_rows(shape.n * blocks, voxels, [&](int64_t row, int64_t begin, int64_t end, int) {
    T* to = out + (last_blocks(row, blocks, out_blocks) * voxels + begin) * kLanes;
    scale_voxels(streamed, x + (row * voxels + begin) * kLanes, keep ? keep + row * kLanes : nullptr, to,
                 end - begin);
  });
}

template <class T>
void split(Shape shape, const T* dout, int64_t dout_blocks, const float* keep, T* dx) {
  int64_t blocks = shape.blocks(), voxels = shape.voxels();
  bool streamed = streams(dx, shape.n * blocks * voxels * kLanes);
  share_rows(shape.n * blocks, voxels, [&](int64_t row, int64_t begin, int64_t end, int) {
    const T* from = dout + (last_blocks(row, blocks, dout_blocks) * voxels + begin) * kLanes;
    scale_voxels(streamed, from, keep ? keep + row * kLanes : nullptr, dx + (row * voxels + begin) * kLanes,
                 end - begin);
  });
}

template <class T>
void add(int64_t count, const T* a, const T* b, T* out) {
  int64_t vectors = count / kLanes;
  bool streamed = streams(out, count);
  share_rows(1, vectors, [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      fetch(a + i * kLanes);
      fetch(b + i * kLanes);
      put(streamed, out + i * kLanes, load(a + i * kLanes) + load(b + i * kLanes));
    }
  });
  // Fewer than sixteen are left.
  T last[3][kLanes] = {};
  int64_t done = vectors * kLanes;
  std::memcpy(last[0], a + done, (count - done) * sizeof(T));
  std::memcpy(last[1], b + done, (count - done) * sizeof(T));
  store(last[2], load(last[0]) + load(last[1]));
  std::memcpy(out + done, last[2], (count - done) * sizeof(T));
}

template <class T>
void to_blocked(Shape shape, const float* plain, T* blocked) {
  int64_t blocks = (shape.c + kLanes - 1) / kLanes, voxels = shape.voxels();
  bool streamed = streams(blocked, shape.n * blocks * voxels * kLanes);
  share_rows(shape.n * blocks, voxels, [&](int64_t row, int64_t begin, int64_t end, int) {
    int64_t sample = row / blocks, channel = row % blocks * kLanes;
    int64_t channels = std::min<int64_t>(kLanes, shape.c - channel);
    const float* from = plain + (sample * shape.c + channel) * voxels;
    T* to = blocked + row * voxels * kLanes;
    Vector tile[kLanes] = {};
    for (int64_t i = begin; i < end; i += kLanes) {
      int64_t count = std::min<int64_t>(kLanes, end - i);
      for (int64_t k = 0; k < kLanes; ++k) {
        f16 values = k < channels ? load_part(from + k * voxels + i, count) : zero();
        store(reinterpret_cast<float*>(&tile[k]), values);
      }
      transpose(tile);
      for (int64_t k = 0; k < count; ++k)
        put(streamed, to + (i + k) * kLanes, load(reinterpret_cast<const float*>(&tile[k])));
    }
  });
}

template <class T>
void to_plain(Shape shape, const T* blocked, float* plain) {
  int64_t blocks = (shape.c + kLanes - 1) / kLanes, voxels = shape.voxels();
  share_rows(shape.n * blocks, voxels, [&](int64_t row, int64_t begin, int64_t end, int) {
    int64_t sample = row / blocks, channel = row % blocks * kLanes;
    int64_t channels = std::min<int64_t>(kLanes, shape.c - channel);
    const T* from = blocked + row * voxels * kLanes;
    float* to = plain + (sample * shape.c + channel) * voxels;
    Vector tile[kLanes] = {};
    for (int64_t i = begin; i < end; i += kLanes) {
      int64_t count = std::min<int64_t>(kLanes, end - i);
      for (int64_t k = 0; k < count; ++k) store(reinterpret_cast<float*>(&tile[k]), load(from + (i + k) * kLanes));
      transpose(tile);
      for (int64_t k = 0; k < channels; ++k)
        store_part(to + k * voxels + i, load(reinterpret_cast<const float*>(&tile[k])), count);
    }
  });
}

#define VNET_INSTANTIATE(T)                                                       \
  template void join<T>(Shape, const T*, const float*, T*, int64_t);              \
  template void split<T>(Shape, const T*, int64_t, const float*, T*);             \
  template void add<T>(int64_t, const T*, const T*, T*);                          \
  template void to_blocked<T>(Shape, const float*, T*);                           \
  template void to_plain<T>(Shape, const T*, float*);
VNET_INSTANTIATE(float)
VNET_INSTANTIATE(bf16)

}  // namespace vnet
