// The arithmetic of batch norm on per-channel values.
//
// Ioffe & Szegedy 2015. With the convolution's result y, mean m, variance v (biased) over samples and
// voxels, i = 1 / sqrt(v + eps): z = gamma * i * (y - m) + beta, and backwards, with M values a channel,
//   dbeta = sum dz, dgamma = i * (sum dz*y - m * sum dz),
//   dy = gamma * i * (dz - dbeta / M - (y - m) * i * dgamma / M) = a * dz + b * y + c.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "scratch.h"

namespace vnet {

// Per-channel vectors in scratch memory until the operator ends.
class Constants {
 public:
  explicit Constants(int64_t channels)
      : channels_(channels), next_(scratch(channels * 16)) {}
  float* floats(int vectors = 1) { return take(vectors); }
  double* doubles(int vectors) { return reinterpret_cast<double*>(take(2 * vectors)); }

 private:
  float* take(int vectors) {
    float* start = next_;
    next_ += vectors * channels_;
    return start;
  }
  int64_t channels_;
  float* next_;
};

inline void scale_and_shift(int64_t channels, const float* mean, const float* inverse, const float* gamma, const float* beta,
                     float* scale, float* shift) {
  for (int64_t c = 0; c < channels; ++c) {
    scale[c] = gamma[c] * inverse[c];
    shift[c] = beta[c] - mean[c] * scale[c];
  }
}

// Mean and 1 / std from the sums, to stats[0..c) and stats[c..2c); the moving ones as MindSpore's BatchNorm: momentum
// weighs the old value, the moving variance is unbiased. Null pointers leave those out.
inline void batch_statistics(int64_t channels, double count, const double* sums, float epsilon, float momentum, float* stats,
                      float* moving_mean, float* moving_variance) {
  for (int64_t c = 0; c < channels; ++c) {
    double mean = sums[c] / count;
    // Rounding may leave a constant channel below zero; NaN and infinity have to stay visible.
    double variance = sums[channels + c] / count - mean * mean;
    if (variance < 0) variance = 0;
    stats[c] = static_cast<float>(mean);
    stats[channels + c] = static_cast<float>(1.0 / std::sqrt(variance + epsilon));
    if (moving_mean == nullptr) continue;
    double unbiased = variance * count / (count - 1);
    moving_mean[c] = momentum * moving_mean[c] + (1 - momentum) * static_cast<float>(mean);
    moving_variance[c] = momentum * moving_variance[c] + (1 - momentum) * static_cast<float>(unbiased);
  }
}

// From the sums: the parameters' gradients, and a, b, c of dy = a * dz + b * y + c.
inline void normalisation_gradients(int64_t channels, double count, const double* sums, const float* stats,
                             const float* scale, float* dgamma, float* dbeta, float* a, float* b, float* c) {
  for (int64_t i = 0; i < channels; ++i) {
    double mean = stats[i], inverse = stats[channels + i];
    double sum = sums[i], sum_xhat = inverse * (sums[channels + i] - mean * sum);
    dbeta[i] = static_cast<float>(sum);
    dgamma[i] = static_cast<float>(sum_xhat);
    double slope = -scale[i] * inverse * sum_xhat / count;
    a[i] = scale[i];
    b[i] = static_cast<float>(slope);
    c[i] = static_cast<float>(-scale[i] * sum / count - slope * mean);
  }
}

}  // namespace vnet
