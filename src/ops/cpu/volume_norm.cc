// Batch norm of plain fp32 volumes (N, C, D, H, W) of any number of channels, with or without a ReLU before it:
// y = gamma * inverse * (r - mean) + beta, r = x or max(x, 0). The ReLU's result is never stored: both passes, and both
// of the way back, find it in x again. Formulas in batch_norm.h. Sums are of differences from a value of the channel:
// far from zero, fp32 squares would leave nothing of a small variance.
#include <cmath>

#include "batch_norm.h"
#include "entry.h"
#include "rows.h"

namespace vnet {

namespace {

// A NaN stays one: it is neither above nor below zero.
template <bool Relu>
VNET_INLINE f16 rectified(f16 x) {
  return Relu ? where_positive(x, x, where_positive(-x, zero(), x)) : x;
}

// Two sums a channel in one pass, to sums[0..C) and sums[C..2C): terms(channel, i, count, &one, &two) adds to both.
template <class Terms>
void channel_sums(Shape shape, double* sums, Terms terms) {
  int64_t channels = shape.c, stride = 2 * channels;
  double* shares = scratch<double>(threads() * stride);
  std::fill_n(shares, threads() * stride, 0.0);
  share_rows(shape.n * channels, shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int thread) {
    int64_t channel = row % channels, offset = row * shape.voxels();
    double* totals = shares + thread * stride + channel;
    for (int64_t start = begin; start < end; start += kRun * kLanes) {
      f16 one = zero(), two = zero();
      by_vector(offset + start, offset + std::min(end, start + kRun * kLanes),
                [&](int64_t i, int64_t count) { terms(channel, i, count, &one, &two); });
      totals[0] += wide_sum(one);
      totals[channels] += wide_sum(two);
    }
  });
  std::copy_n(shares, stride, sums);
  for (int thread = 1; thread < threads(); ++thread)
    for (int64_t i = 0; i < stride; ++i) sums[i] += shares[thread * stride + i];
}

Shape shape_of(const Call& call, int i) {
  return {call.dim(i, 0), call.dim(i, 1), call.dim(i, 2), call.dim(i, 3), call.dim(i, 4)};
}

template <bool Relu>
void forward(const Call& call) {
  Shape shape = shape_of(call, 0);
  const float *x = call.get<float>(0), *gamma = call.get<float>(1), *beta = call.get<float>(2);
  float epsilon = *call.get<float>(3), *y = call.get<float>(4), *stats = call.get<float>(5);
  int64_t channels = shape.c;
  Constants values(channels);
  double* sums = values.doubles(2);
  float* origin = values.floats();
  for (int64_t c = 0; c < channels; ++c) {
    float first = x[c * shape.voxels()];
    // What is not finite shows in the sums anyway.
    origin[c] = std::isfinite(first) ? (Relu ? std::max(first, 0.0f) : first) : 0.0f;
  }
  channel_sums(shape, sums, [&](int64_t channel, int64_t i, int64_t count, f16* total, f16* squares) {
    fetch(x + i);
    f16 r = rectified<Relu>(load_part(x + i, count, origin[channel])) - set1(origin[channel]);
    *total = *total + r;
    *squares = fma(r, r, *squares);
  });
  // No moving statistics here: the cell has them, and the third row of `stats` is what it needs for them.
  float *moving_mean = values.floats(), *unbiased = stats + 2 * channels;
  std::fill_n(moving_mean, channels, 0.0f);
  std::fill_n(unbiased, channels, 0.0f);
  batch_statistics(channels, static_cast<double>(shape.n * shape.voxels()), sums, epsilon, 0.0f, stats, moving_mean,
                   unbiased);
  for (int64_t c = 0; c < channels; ++c) stats[c] += origin[c];
  share_rows(shape.n * channels, shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int) {
    int64_t channel = row % channels, offset = row * shape.voxels();
    f16 mean = set1(stats[channel]), scale = set1(gamma[channel] * stats[channels + channel]);
    f16 shift = set1(beta[channel]);
    by_vector(offset + begin, offset + end, [&](int64_t i, int64_t count) {
      fetch(x + i);
      store_part(y + i, fma(scale, rectified<Relu>(load_part(x + i, count)) - mean, shift), count);
    });
  });
}

template <bool Relu>
void backward(const Call& call) {
  Shape shape = shape_of(call, 0);
  const float *dy = call.get<float>(0), *x = call.get<float>(1), *gamma = call.get<float>(2);
  const float* stats = call.get<float>(3);
  float *dx = call.get<float>(4), *dgamma = call.get<float>(5), *dbeta = call.get<float>(6);
  int64_t channels = shape.c;
  Constants values(channels);
  double* sums = values.doubles(2);
  channel_sums(shape, sums, [&](int64_t channel, int64_t i, int64_t count, f16* total, f16* products) {
    fetch(x + i);
    fetch(dy + i);
    f16 gradient = load_part(dy + i, count);
    *total = *total + gradient;
    *products = fma(gradient, rectified<Relu>(load_part(x + i, count)) - set1(stats[channel]), *products);
  });
  // In terms of r - mean, whose mean is 0.
  float *centred = values.floats(2), *scale = values.floats();
  std::fill_n(centred, channels, 0.0f);
  std::copy_n(stats + channels, channels, centred + channels);
  for (int64_t c = 0; c < channels; ++c) scale[c] = gamma[c] * stats[channels + c];
  float *a = values.floats(), *b = values.floats(), *c = values.floats();
  normalisation_gradients(channels, static_cast<double>(shape.n * shape.voxels()), sums, centred, scale, dgamma, dbeta, a,
                          b, c);
  share_rows(shape.n * channels, shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int) {
    int64_t channel = row % channels, offset = row * shape.voxels();
    f16 of_dy = set1(a[channel]), of_r = set1(b[channel]), constant = set1(c[channel]), mean = set1(stats[channel]);
    by_vector(offset + begin, offset + end, [&](int64_t i, int64_t count) {
      fetch(x + i);
      fetch(dy + i);
      f16 value = load_part(x + i, count), r = rectified<Relu>(value) - mean;
      f16 gradient = fma(of_dy, load_part(dy + i, count), fma(of_r, r, constant));
      store_part(dx + i, Relu ? where_positive(value, gradient, zero()) : gradient, count);
    });
  });
}

}  // namespace

}  // namespace vnet

// x, gamma (C), beta (C), epsilon (1) -> y, stats (3, C): mean, 1 / std, and the unbiased variance.
VNET_ENTRY(VolumeNorm) {
  vnet::Timer timer(vnet::Category::pointwise);
  vnet::forward<false>(call);
}

VNET_ENTRY(ReluVolumeNorm) {
  vnet::Timer timer(vnet::Category::pointwise);
  vnet::forward<true>(call);
}

// dy, x, gamma, stats -> dx, dgamma, dbeta.
VNET_ENTRY(VolumeNormBackward) {
  vnet::Timer timer(vnet::Category::pointwise);
  vnet::backward<false>(call);
}

VNET_ENTRY(ReluVolumeNormBackward) {
  vnet::Timer timer(vnet::Category::pointwise);
  vnet::backward<true>(call);
}
