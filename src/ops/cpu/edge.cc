// Transforms of plain rows and of weights for the convolutions at the network's edges; edge.h has the idea.
#include "edge.h"

#include <cstring>

namespace vnet {

void edge_pad(Shape shape, const EdgeGrid& grid, int64_t channels, const float* plain, float* padded) {
  share(channels * grid.planes, [&](int64_t first, int64_t last, int) {
    for (int64_t plane = first; plane < last; ++plane) {
      float* out = padded + plane * grid.rows * grid.row_floats;
      int64_t channel = plane / grid.planes, d = plane % grid.planes - kMargin;
      if (d < 0 || d >= shape.d) {
        std::memset(out, 0, grid.rows * grid.row_floats * sizeof(float));
        continue;
      }
      const float* in = plain + (channel * shape.d + d) * shape.h * shape.w;
      for (int64_t row = 0; row < grid.rows; ++row, out += grid.row_floats) {
        int64_t h = row - kMargin;
        if (h < 0 || h >= shape.h) {
          std::memset(out, 0, grid.row_floats * sizeof(float));
          continue;
        }
        std::memset(out, 0, kMargin * sizeof(float));
        std::memcpy(out + kMargin, in + h * shape.w, shape.w * sizeof(float));
        std::memset(out + kMargin + shape.w, 0, (grid.row_floats - kMargin - shape.w) * sizeof(float));
      }
    }
  });
}

void edge_transform_rows(const EdgeGrid& grid, const float* padded, int64_t tile, float* out) {
  const float* corner =
      padded + (tile / grid.height * grid.rows + tile % grid.height) * kEdgeTile * grid.row_floats;
  for (int64_t w = 0; w < grid.row_floats; w += kLanes) {
    f16 rows[kEdgeAlpha][kEdgeAlpha];
    for (int d = 0; d < kEdgeAlpha; ++d) {
      const float* plane = corner + d * grid.rows * grid.row_floats + w;
      f16 line[kEdgeAlpha];
#pragma GCC unroll 8
      for (int h = 0; h < kEdgeAlpha; ++h) line[h] = load(plane + h * grid.row_floats);
      transform_input<kEdgeAlpha>(line, rows[d]);
    }
    for (int h = 0; h < kEdgeAlpha; ++h) {
      f16 line[kEdgeAlpha];
#pragma GCC unroll 8
      for (int d = 0; d < kEdgeAlpha; ++d) line[d] = rows[d][h];
      transform_input<kEdgeAlpha>(line, line);
#pragma GCC unroll 8
      for (int d = 0; d < kEdgeAlpha; ++d) store(out + (d * kEdgeAlpha + h) * grid.row_floats + w, line[d]);
    }
  }
}

void edge_transform_weights(const EdgeWeights& weights, const float* weight, int64_t plain_slots, float* out) {
  int64_t k = weights.k, margin = (kTaps - k) / 2;
  share(weights.channels / kLanes * plain_slots, [&](int64_t first, int64_t last, int) {
    for (int64_t item = first; item < last; ++item) {
      int64_t block = item / plain_slots, plain = item % plain_slots;
      f16 taps[kTaps][kTaps][kTaps];  // [d][h][w]
      std::memset(taps, 0, sizeof taps);
      if (plain < weights.plain) {
        for (int64_t tap = 0; tap < k * k * k; ++tap) {
          const float* from = weight + block * kLanes * weights.channel_stride + plain * weights.plain_stride +
                              (weights.flipped ? k * k * k - 1 - tap : tap);
          float lanes[kLanes];
          for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = from[lane * weights.channel_stride];
          taps[margin + tap / (k * k)][margin + tap / k % k][margin + tap % k] = load(lanes);
        }
      }
      for (int w = 0; w < kTaps; ++w) {
        f16 rows[kTaps][kEdgeAlpha];
        for (int d = 0; d < kTaps; ++d) {
          f16 line[kTaps];
          for (int h = 0; h < kTaps; ++h) line[h] = taps[d][h][w];
          transform_kernel<kEdgeAlpha, kTaps>(line, rows[d]);
        }
        for (int h = 0; h < kEdgeAlpha; ++h) {
          f16 line[kTaps], points[kEdgeAlpha];
          for (int d = 0; d < kTaps; ++d) line[d] = rows[d][h];
          transform_kernel<kEdgeAlpha, kTaps>(line, points);
          for (int d = 0; d < kEdgeAlpha; ++d) {
            int64_t point = d * kEdgeAlpha + h;
            store(out + ((block * kEdgePoints + point) * plain_slots + plain) * kEdgeTapFloats + w * kLanes, points[d]);
          }
        }
      }
    }
  });
}

}  // namespace vnet
