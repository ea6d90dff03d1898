// Transforms weights with G on three axes: U = (G x G x G) g for each pair of channels.
//
// Sixteen kernels, one a lane, are transformed together. Plain weights keep the 125 taps of a kernel together, so the
// lanes are the rows of a 16 x 125 matrix, which is transposed in registers.
#include "winograd_kernel_transform.h"

namespace vnet {

namespace {

constexpr int kKernel = kTaps * kTaps * kTaps;
// From this size the transformed weights are written past the caches, which they would only clear.
constexpr int64_t kStreamedFloats = int64_t{1} << 20;

// taps[t][lane] = tap t of the kernel at rows + lane * row_stride; the other way round if flipped.
VNET_INLINE void gather_taps(const float* rows, int64_t row_stride, bool flipped, float* taps) {
  for (int first = 0; first < kKernel; first += kLanes) {
    int from = first + kLanes <= kKernel ? first : kKernel - kLanes;
    f16 part[kLanes];
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) part[lane] = load(rows + lane * row_stride + from);
    transpose(part);
    float* to = taps + (flipped ? kKernel - 1 - from : from) * kLanes;
    int64_t step = flipped ? -kLanes : kLanes;
#pragma GCC unroll 16
    for (int t = 0; t < kLanes; ++t) store(to + t * step, part[t]);
  }
}

template <int AlphaD, int AlphaH, int AlphaW>
VNET_INLINE void transform_taps(const float* taps, int64_t stride, bool streamed, float* out) {
  alignas(64) float rows[kTaps * kTaps * AlphaW * kLanes], planes[kTaps * AlphaH * AlphaW * kLanes];
  for (int row = 0; row < kTaps * kTaps; ++row) {
    f16 x[kTaps], y[AlphaW];
#pragma GCC unroll 8
    for (int k = 0; k < kTaps; ++k) x[k] = load(taps + (row * kTaps + k) * kLanes);
    transform_kernel<AlphaW, kTaps>(x, y);
#pragma GCC unroll 8
    for (int k = 0; k < AlphaW; ++k) store(rows + (row * AlphaW + k) * kLanes, y[k]);
  }
  for (int d = 0; d < kTaps; ++d) {
    for (int w = 0; w < AlphaW; ++w) {
      f16 x[kTaps], y[AlphaH];
#pragma GCC unroll 8
      for (int k = 0; k < kTaps; ++k) x[k] = load(rows + ((d * kTaps + k) * AlphaW + w) * kLanes);
      transform_kernel<AlphaH, kTaps>(x, y);
#pragma GCC unroll 8
      for (int k = 0; k < AlphaH; ++k) store(planes + ((d * AlphaH + k) * AlphaW + w) * kLanes, y[k]);
    }
  }
  for (int point = 0; point < AlphaH * AlphaW; ++point) {
    f16 x[kTaps], y[AlphaD];
#pragma GCC unroll 8
    for (int k = 0; k < kTaps; ++k) x[k] = load(planes + (k * AlphaH * AlphaW + point) * kLanes);
    transform_kernel<AlphaD, kTaps>(x, y);
    float* to = out + point * AlphaD * stride;
    if (streamed) {
#pragma GCC unroll 8
      for (int k = 0; k < AlphaD; ++k) stream(to + k * stride, y[k]);
    } else {
#pragma GCC unroll 8
      for (int k = 0; k < AlphaD; ++k) store(to + k * stride, y[k]);
    }
  }
}

}  // namespace

template <int AlphaD, int AlphaH, int AlphaW>
void transform_weights(const float* weight, KernelUse use, const KernelLayout& layout, float* transformed) {
  bool backward = use == KernelUse::backward_data;
  // Lanes are the product's outputs: the weights' first axis forward, their second axis backward.
  int64_t lane_stride = backward ? kKernel : layout.inputs * kKernel;
  int64_t input_stride = backward ? layout.outputs * kKernel : kKernel;
  bool streamed = layout.stride * AlphaD * AlphaH * AlphaW > kStreamedFloats;
  constexpr int64_t kInputs = 4;  // of a task
  int64_t parts = layout.inputs / kInputs;
  spread(layout.outputs / kLanes * parts, [&](int64_t task, int) {
    alignas(64) float taps[kKernel * kLanes];
    int64_t block = task / parts, first = task % parts * kInputs;
    for (int64_t input = first; input < first + kInputs; ++input) {
      gather_taps(weight + block * kLanes * lane_stride + input * input_stride, lane_stride, backward, taps);
      transform_taps<AlphaD, AlphaH, AlphaW>(taps, layout.stride, streamed, transformed + layout.offset(input, block));
    }
    if (streamed) fence();
  });
}

template void transform_weights<8, 8, 8>(const float*, KernelUse, const KernelLayout&, float*);
template void transform_weights<8, 8, 6>(const float*, KernelUse, const KernelLayout&, float*);
template void transform_weights<6, 6, 6>(const float*, KernelUse, const KernelLayout&, float*);

}  // namespace vnet
