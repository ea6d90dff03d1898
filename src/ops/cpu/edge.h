// The network's edges: 5x5x5 convolutions between a few plain channels (the image, the classes) and blocked ones.
//
// All of them are Winograd's F(4,5) (winograd_tile.h) in depth and height and a plain sum of five taps along the
// width. Each tile of 4 x 4 rows of outputs needs 8 x 8 rows of inputs; the 64 points of a tile take 64 / 16 * 5 = 20
// products a voxel in place of 125. Along the width nothing is transformed, so that plain rows are transformed
// sixteen voxels at a time without shuffles, and blocked rows voxel by voxel.
//
// A point is numbered depth * 8 + height.
#pragma once

#include <stdexcept>

#include "kernels.h"
#include "scratch.h"
#include "threads.h"
#include "winograd_tile.h"

namespace vnet {

constexpr int kEdgeTile = 4;                             // output rows of a tile, in depth and in height
constexpr int kEdgeAlpha = kEdgeTile + kTaps - 1;        // input rows of a tile
constexpr int kEdgePoints = kEdgeAlpha * kEdgeAlpha;
constexpr int kEdgeTapFloats = kTaps * kLanes;           // the five taps along the width, sixteen channels each

// The tiles of a volume, and its plain channels with their rows and planes padded by zeros to whole tiles.
struct EdgeGrid {
  int64_t depth, height;             // tiles
  int64_t planes, rows, row_floats;  // of a padded channel; a row starts with two zeros

  explicit EdgeGrid(Shape shape)
      : depth((shape.d + kEdgeTile - 1) / kEdgeTile), height((shape.h + kEdgeTile - 1) / kEdgeTile),
        planes(depth * kEdgeTile + kTaps - 1), rows(height * kEdgeTile + kTaps - 1),
        row_floats((shape.w + kLanes - 1) / kLanes * kLanes + kLanes) {}
  int64_t tiles() const { return depth * height; }
  int64_t channel_floats() const { return planes * rows * row_floats; }
  int64_t tile_floats() const { return kEdgePoints * row_floats; }  // of a channel, transformed
};

// Copies `channels` plain channels (shape.d, shape.h, shape.w) to padded ones.
void edge_pad(Shape shape, const EdgeGrid& grid, int64_t channels, const float* plain, float* padded);

// B^T on the rows of one tile of one padded channel: out[point][row_floats].
void edge_transform_rows(const EdgeGrid& grid, const float* padded, int64_t tile, float* out);

// Where the weight of (blocked channel, plain channel, tap) is: channel * channel_stride + plain * plain_stride + tap,
// with k^3 taps; k = 1 and 3 are the middle of a kernel of 5^3.
struct EdgeWeights {
  int64_t channels, plain;
  int64_t channel_stride, plain_stride;
  int64_t k;
  bool flipped;  // along all three axes, as the gradients need it

  void check() const {
    if (channels % kLanes) throw std::invalid_argument("channels must be a multiple of 16");
    if (k != 1 && k != 3 && k != 5) throw std::invalid_argument("the kernel's edge must be 1, 3 or 5");
  }
  int64_t transformed_floats(int64_t plain_slots) const {
    return channels / kLanes * kEdgePoints * plain_slots * kEdgeTapFloats;
  }
};

// G on the weights: out[block][point][plain_slots][tap along the width][lane]; slots from weights.plain on are zero.
void edge_transform_weights(const EdgeWeights& weights, const float* weight, int64_t plain_slots, float* out);

}  // namespace vnet
