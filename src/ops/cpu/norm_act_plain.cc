// The passes of norm_act.cc on plain fp32 volumes (N, C, D, H, W) of any number of channels: lanes are voxels that
// follow one another. For the network's last layers; no residual.
#include "finish_gradient.h"
#include "kernels.h"
#include "rows.h"
#include "scratch.h"
#include "threads.h"

namespace vnet {

namespace {

constexpr int kSums = 3;  // Σ dz, Σ dz y, Σ ds min(z, 0)

}  // namespace

void plain_finish_forward(Shape shape, const float* y, const Finish<float>& finish, float* out) {
  with_curves(finish.act, finish.act2, [&](auto curve, auto curve2) {
    share_rows(shape.n * shape.c, shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int) {
      Coefficients k = channel_coefficients(finish, row % shape.c);
      int64_t offset = row * shape.voxels();
      by_vector(offset + begin, offset + end, [&](int64_t i, int64_t count) {
        store_part(out + i, finished<curve(), curve2()>(k, load_part(y + i, count), zero()), count);
      });
    });
  });
}

void plain_finish_backward_sums(Shape shape, const float* dout, const float* y, const Finish<float>& finish,
                                double* sums, float* dslope) {
  ScratchScope scope;
  int64_t channels = shape.c, stride = kSums * channels;
  double* shares = scratch<double>(threads() * stride);
  std::fill_n(shares, threads() * stride, 0.0);
  with_curves(finish.act, finish.act2, [&](auto curve, auto curve2) {
    share_rows(shape.n * channels, shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int thread) {
      Coefficients k = channel_coefficients(finish, row % channels);
      double* totals = shares + thread * stride + row % channels;
      int64_t offset = row * shape.voxels();
      for (int64_t start = begin; start < end; start += kRun * kLanes) {
        int64_t stop = std::min(end, start + kRun * kLanes);
        f16 dz_sum = zero(), dzy_sum = zero(), slope_sum = zero();
        by_vector(offset + start, offset + stop, [&](int64_t i, int64_t count) {
          // Lanes behind the end have dout = 0, y = 0: dz is zero there, unless the coefficients are not finite.
          f16 value = load_part(y + i, count);
          Gradient g = finish_gradient<curve(), curve2()>(k, value, zero(), load_part(dout + i, count));
          dz_sum = dz_sum + g.dz;
          dzy_sum = fma(g.dz, value, dzy_sum);
          slope_sum = fma(g.ds, negative_part(g.z), slope_sum);
        });
        totals[0] += wide_sum(dz_sum);
        totals[channels] += wide_sum(dzy_sum);
        totals[2 * channels] += wide_sum(slope_sum);
      }
    });
  });
  for (int thread = 1; thread < threads(); ++thread)
    for (int64_t i = 0; i < stride; ++i) shares[i] += shares[thread * stride + i];
  std::copy_n(shares, 2 * channels, sums);
  if (dslope) std::copy_n(shares + 2 * channels, channels, dslope);
}

void plain_finish_backward_data(Shape shape, const float* dout, const float* y, const Finish<float>& finish,
                                const float* a, const float* b, const float* c, float* dy) {
  with_curves(finish.act, finish.act2, [&](auto curve, auto curve2) {
    share_rows(shape.n * shape.c, shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int) {
      int64_t channel = row % shape.c, offset = row * shape.voxels();
      Coefficients k = channel_coefficients(finish, channel);
      f16 of_dz = set1(a[channel]), of_y = set1(b[channel]), constant = set1(c[channel]);
      by_vector(offset + begin, offset + end, [&](int64_t i, int64_t count) {
        f16 value = load_part(y + i, count);
        Gradient g = finish_gradient<curve(), curve2()>(k, value, zero(), load_part(dout + i, count));
        store_part(dy + i, fma(of_dz, g.dz, fma(of_y, value, constant)), count);
      });
    });
  });
}

}  // namespace vnet
