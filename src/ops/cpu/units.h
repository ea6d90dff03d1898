// What the operators of a unit share: its description, and the order of their tensors (units.cc, unit_entries.cc).
#pragma once

#include <cstdint>

#include "entry.h"

namespace vnet {

enum Kind { kSame = 0, kDown = 1, kUp = 2, kInput = 3, kOutput = 4 };
enum ResidualKind { kNone = 0, kGiven = 1, kOwn = 2, kImage = 3 };  // kOwn: the unit's own input

enum class Norm { none = 0, batch = 1, instance = 2 };  // statistics over the batch, or over each sample by itself

// The `config` tensor, int64; src/ops/cpu/unit_op.py writes it.
struct Config {
  Kind kind;
  int64_t kernel;
  Norm norm;
  Act act, act2;
  ResidualKind residual;
  bool joined;        // out holds a second volume behind the unit's own (kUp)
  int64_t algorithm;  // 0: by rule, 1: direct, 2: Winograd, F222 to F444 by rule
};

inline Config read_config(const Call& call) {
  const int64_t* v = call.get<int64_t>(0);
  return {static_cast<Kind>(v[0]), v[1], static_cast<Norm>(v[2]), static_cast<Act>(v[3]), static_cast<Act>(v[4]),
          static_cast<ResidualKind>(v[5]), v[6] != 0, v[7]};
}

inline Shape shape_of(const Call& call, int i) {
  const int64_t* s = call.shapes[i];
  return call.ranks[i] == 6 ? Shape{s[0], s[1] * kLanes, s[2], s[3], s[4]} : Shape{s[0], s[1], s[2], s[3], s[4]};
}

// Whether the forward pass keeps y, which the backward pass then overwrites and marks in `stats` as used up: a second
// one, as of a vjp that a graph calls twice, has to be an error.
inline bool keeps_result(const Config& config) { return config.kind == kSame || config.kind == kOutput; }

inline Shape result_shape(const Config& config, Shape in, int64_t channels) {
  in.c = channels;
  if (config.kind == kDown) in.d /= 2, in.h /= 2, in.w /= 2;
  if (config.kind == kUp) in.d *= 2, in.h *= 2, in.w *= 2;
  return in;
}

inline int64_t channels_of(const Call& call, const Config& config, int weight) {
  return call.dim(weight, config.kind == kUp ? 1 : 0);
}

template <class T>
T* scratch_volume(Shape shape) {
  return scratch<T>(shape.n * shape.c * shape.voxels());
}

// Order of the tensors; the forward's inputs come first in all three operators.
enum ForwardInput { iConfig, iConstants, iX, iResidual, iKeep, iWeight, iBias, iGamma, iBeta, iMean, iVariance, iSlope,
                    iSlope2, iForwardCount };

enum BackwardInput { bConfig, bDout, bX, bResidual, bKeep, bWeight, bBias, bY, bStats, bGamma, bBeta, bSlope, bSlope2,
                     bDx, bDresidual, bDweight, bDbias, bDgamma, bDbeta, bDslope, bDslope2 };

// The operators on a batch; `call` has the tensors in the orders above, behind the forward's inputs y, the unit's
// result and the statistics, and behind the inference's inputs the result alone.
template <class T>
void unit_forward(const Call& call);
template <class T>
void unit_inference(const Call& call);
template <class T>
void unit_backward(const Call& call);

// Their parts, but for the `output` kind. Forward: the convolution's result to y, with Σ y and Σ y² of each channel
// if `sums` is not null; and all that follows, by these sums.
template <class T>
void unit_convolve(const Call& call, T* y, double* sums);
template <class T>
void unit_finish(const Call& call, const T* y, const double* sums);
// Backward: the convolution's result, kept or computed again; the gradient at it, which is written over it, and all
// gradients but those at x (unless it is the residual) and the weights; and those two.
template <class T>
T* unit_convolved(const Call& call);
template <class T>
void unit_backward_finish(const Call& call, T* y);
template <class T>
void unit_backward_convolve(const Call& call, const T* dy);

}  // namespace vnet
