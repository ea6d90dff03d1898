// Batch norm's scale and shift, activations and residual sums on blocked volumes, forward and backward.
//
// These passes do little arithmetic on much memory. Each reads every input once: the derivatives are recomputed from
// the convolution's result y, so that nothing but y is kept from the forward pass (finish_gradient.h has the
// formulas). A thread's share is a contiguous run of voxels; the coefficients of a block of sixteen channels stay in
// registers while the run stays in the block.
#include "finish.h"
#include "finish_gradient.h"
#include "kernels.h"
#include "rows.h"
#include "scratch.h"
#include "threads.h"

namespace vnet {

namespace {

// What the backward passes read at a piece of a row. A row is a block of channels of a sample.
template <class T>
struct Place {
  const T *dout, *y, *residual;
  const float* broadcast;
  int64_t channel, offset;

  Place(Shape shape, const T* dout_start, int64_t dout_blocks, const T* y_start, const Finish<T>& finish, int64_t row,
        int64_t voxel) {
    int64_t sample = row / shape.blocks(), block = row % shape.blocks();
    channel = block * kLanes;
    offset = (row * shape.voxels() + voxel) * kLanes;
    dout = dout_start + ((sample * dout_blocks + block) * shape.voxels() + voxel) * kLanes;
    y = y_start + offset;
    residual = finish.residual ? finish.residual + offset : nullptr;
    broadcast = finish.broadcast ? finish.broadcast + sample * shape.voxels() + voxel : nullptr;
  }

  // What is added before the second activation at voxel i of the piece.
  VNET_INLINE f16 added(int64_t i) const {
    f16 value = zero();
    if (residual) {
      fetch(residual + i * kLanes);
      value = load(residual + i * kLanes);
    }
    if (broadcast) value = value + set1(broadcast[i]);
    return value;
  }
};

// Without a second activation the sum before it is of no interest: its addends need not be read.
template <class T>
Finish<T> for_gradient(Finish<T> finish) {
  if (finish.act2 == Act::none) finish.residual = nullptr, finish.broadcast = nullptr;
  return finish;
}

// The sums of a share, double: for each channel Σ dz, Σ dz y, Σ ds min(z, 0), Σ dout min(s, 0).
constexpr int kSums = 4;

}  // namespace

template <class T>
void channel_sums(Shape shape, const T* y, double* sums) {
  int64_t stride = 2 * shape.c;
  double* shares = scratch<double>(threads() * stride);
  std::fill_n(shares, threads() * stride, 0.0);
  share_rows(shape.n * shape.blocks(), shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int thread) {
    const T* from = y + row * shape.voxels() * kLanes;
    double totals[2][kLanes] = {};
    for (int64_t start = begin; start < end; start += kRun) {
      f16 sum = zero(), squares = zero();
      for (int64_t i = start; i < std::min(end, start + kRun); ++i) {
        fetch(from + i * kLanes);
        f16 value = load(from + i * kLanes);
        sum = sum + value;
        squares = fma(value, value, squares);
      }
      add_to(totals[0], sum);
      add_to(totals[1], squares);
    }
    double* own = shares + thread * stride + row % shape.blocks() * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      own[lane] += totals[0][lane];
      own[shape.c + lane] += totals[1][lane];
    }
  });
  std::copy_n(shares, stride, sums);
  for (int thread = 1; thread < threads(); ++thread) {
    for (int64_t i = 0; i < stride; ++i) sums[i] += shares[thread * stride + i];
  }
}

template <class T>
void finish_forward(Shape shape, const T* y, const Finish<T>& finish, T* out, int64_t out_blocks) {
  constexpr int64_t kStep = 4;
  int64_t blocks = shape.blocks(), voxels = shape.voxels();
  bool streamed = streams(out, shape.n * blocks * voxels * kLanes);
  share_rows(shape.n * blocks, voxels, [&](int64_t row, int64_t begin, int64_t end, int) {
    int64_t sample = row / blocks, block = row % blocks;
    FinishBlock<T> tail(finish, shape, sample, block);
    const T* from = y + row * voxels * kLanes;
    T* to = out + (sample * out_blocks + block) * voxels * kLanes;
    int64_t voxel = begin;
    for (; voxel + kStep <= end; voxel += kStep) {
      f16 values[kStep];
      for (int64_t k = 0; k < kStep; ++k) {
        fetch(from + (voxel + k) * kLanes);
        if (tail.residual) fetch(tail.residual + (voxel + k) * kLanes);
        values[k] = load(from + (voxel + k) * kLanes);
      }
      tail.template apply<kStep>(values, voxel);
      for (int64_t k = 0; k < kStep; ++k) put(streamed, to + (voxel + k) * kLanes, values[k]);
    }
    for (; voxel < end; ++voxel) store(to + voxel * kLanes, tail.apply(load(from + voxel * kLanes), voxel));
  });
}

template <class T>
void finish_backward_sums(Shape shape, const T* dout, int64_t dout_blocks, const T* y, const Finish<T>& all,
                          double* sums, float* dslope, float* dslope2, T* dresidual) {
  ScratchScope scope;
  Finish<T> finish = for_gradient(all);
  int64_t channels = shape.c, stride = kSums * channels;
  double* shares = scratch<double>(threads() * stride);
  std::fill_n(shares, threads() * stride, 0.0);
  bool stream_ds = streams(dresidual, shape.n * channels * shape.voxels());
  with_curves(finish.act, finish.act2, [&](auto curve, auto curve2) {
    share_rows(shape.n * shape.blocks(), shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int thread) {
      Place<T> at(shape, dout, dout_blocks, y, finish, row, begin);
      Coefficients k = block_coefficients(finish, at.channel);
      T* ds = dresidual ? dresidual + at.offset : nullptr;
      double totals[kSums][kLanes] = {};
      for (int64_t start = 0; start < end - begin; start += kRun) {
        int64_t stop = std::min(end - begin, start + kRun);
        f16 dz_sum = zero(), dzy_sum = zero(), slope_sum = zero(), slope2_sum = zero();
        for (int64_t i = start; i < stop; ++i) {
          fetch(at.dout + i * kLanes);
          fetch(at.y + i * kLanes);
          f16 gradient = load(at.dout + i * kLanes), value = load(at.y + i * kLanes);
          f16 added = at.added(i);
          Gradient g = finish_gradient<curve(), curve2()>(k, value, added, gradient);
          dz_sum = dz_sum + g.dz;
          dzy_sum = fma(g.dz, value, dzy_sum);
          if (curve() == Curve::prelu) slope_sum = fma(g.ds, negative_part(g.z), slope_sum);
          if (curve2() == Curve::prelu) slope2_sum = fma(gradient, negative_part(g.s), slope2_sum);
          if (ds) put(stream_ds, ds + i * kLanes, g.ds);
        }
        add_to(totals[0], dz_sum);
        add_to(totals[1], dzy_sum);
        add_to(totals[2], slope_sum);
        add_to(totals[3], slope2_sum);
      }
      for (int kind = 0; kind < kSums; ++kind) {
        double* total = shares + thread * stride + kind * channels + at.channel;
        for (int lane = 0; lane < kLanes; ++lane) total[lane] += totals[kind][lane];
      }
    });
  });
  for (int thread = 1; thread < threads(); ++thread)
    for (int64_t i = 0; i < stride; ++i) shares[i] += shares[thread * stride + i];
  std::copy_n(shares, 2 * channels, sums);
  if (dslope) std::copy_n(shares + 2 * channels, channels, dslope);
  if (dslope2) std::copy_n(shares + 3 * channels, channels, dslope2);
}

template <class T>
void finish_backward_data(Shape shape, const T* dout, int64_t dout_blocks, const T* y, const Finish<T>& all,
                          const float* a, const float* b, const float* c, T* dy) {
  Finish<T> finish = for_gradient(all);
  bool stream_dy = streams(dy, shape.n * shape.c * shape.voxels());
  with_curves(finish.act, finish.act2, [&](auto curve, auto curve2) {
    share_rows(shape.n * shape.blocks(), shape.voxels(), [&](int64_t row, int64_t begin, int64_t end, int) {
      Place<T> at(shape, dout, dout_blocks, y, finish, row, begin);
      Coefficients k = block_coefficients(finish, at.channel);
      f16 of_dz = load(a + at.channel), of_y = load(b + at.channel), constant = load(c + at.channel);
      T* to = dy + at.offset;
      for (int64_t i = 0; i < end - begin; ++i) {
        fetch(at.dout + i * kLanes);
        fetch(at.y + i * kLanes);
        f16 value = load(at.y + i * kLanes), added = at.added(i);
        Gradient g = finish_gradient<curve(), curve2()>(k, value, added, load(at.dout + i * kLanes));
        put(stream_dy, to + i * kLanes, fma(of_dz, g.dz, fma(of_y, value, constant)));
      }
    });
  });
}

#define VNET_INSTANTIATE(T)                                                                                        \
  template void channel_sums<T>(Shape, const T*, double*);                                                         \
  template void finish_forward<T>(Shape, const T*, const Finish<T>&, T*, int64_t);                                 \
  template void finish_backward_sums<T>(Shape, const T*, int64_t, const T*, const Finish<T>&, double*, float*,     \
                                        float*, T*);                                                               \
  template void finish_backward_data<T>(Shape, const T*, int64_t, const T*, const Finish<T>&, const float*,        \
                                        const float*, const float*, T*);
VNET_INSTANTIATE(float)
VNET_INSTANTIATE(bf16)

}  // namespace vnet
