// A cost model of the forms of convolution: products over whole tiles (so with what lies outside the volume), the
// transforms of the tiles and those of the weights.
#include "winograd_rule.h"

#include "winograd_tile.h"

namespace vnet {

namespace {

int64_t cut(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// Costs in units of one multiplication and addition of the matrix products, fitted to times on 2 cores with AVX-512
// of layers with 16 to 256 channels and 12 to a million voxels.
//
// A channel of a tile, per point: into and out of the transform, with the memory traffic.
constexpr double kTransformLarge = 10, kTransformSmall = 4.5;  // Alpha 8 and 6 along depth
// A pair of channels, per point: transforming the weights, writing and reading them; and per tap: reading them.
constexpr double kWeight = 24, kTap = 20;
// oneDNN's direct form: a multiplication and addition, and a tap that is reordered.
constexpr double kDirect = 0.6, kDirectTap = 35;

double winograd_cost(Shape in, int64_t channels, int deep, int high, int wide) {
  int margin = kTaps - 1;
  double points = (deep + margin) * (high + margin) * (wide + margin);
  double tiles = static_cast<double>(in.n * cut(in.d, deep) * cut(in.h, high) * cut(in.w, wide));
  double pairs = static_cast<double>(in.c * channels);
  double transform = (deep > 2 ? kTransformLarge : kTransformSmall) * static_cast<double>(in.c + channels);
  return tiles * points * (pairs + transform) + pairs * (points * kWeight + kTaps * kTaps * kTaps * kTap);
}

double direct_cost(Shape in, int64_t channels) {
  double taps = static_cast<double>(in.c * channels) * (kTaps * kTaps * kTaps);
  return taps * (static_cast<double>(in.n * in.voxels()) * kDirect + kDirectTap);
}

}  // namespace

// The three directions have the same products and the same transforms, in another order, hence one model for all.
Tiling choose_tiling(Shape in, int64_t channels, Direction) {
  if (in.c < kLanes || channels < kLanes || in.c % kLanes || channels % kLanes) return Tiling::direct;
  struct Form {
    Tiling tiling;
    double cost;
  };
  const Form forms[] = {{Tiling::f444, winograd_cost(in, channels, 4, 4, 4)},
                        {Tiling::f442, winograd_cost(in, channels, 4, 4, 2)},
                        {Tiling::f222, winograd_cost(in, channels, 2, 2, 2)},
                        {Tiling::direct, direct_cost(in, channels)}};
  Form best = forms[0];
  for (const Form& form : forms) {
    if (form.cost < best.cost) best = form;
  }
  return best.tiling;
}

}  // namespace vnet
