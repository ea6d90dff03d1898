// The same-size convolutions of the network through oneDNN's direct kernels (onednn.h): for sizes at which Winograd
// tiles would hold mostly padding, and for accuracy. oneDNN computes in fp32 from and to blocked volumes; a second
// pass over the result, where anything is left to do, applies the epilogue and rounds to the storage type.
#include "finish.h"
#include "kernels.h"
#include "onednn.h"
#include "rows.h"
#include "scratch.h"
#include "task_sums.h"
#include "threads.h"

namespace vnet {

namespace {

Convolution same_size(Shape in, int64_t channels, int64_t k) {
  Convolution form;
  form.src = {in.n, in.c, in.d, in.h, in.w};
  form.weights = {channels, in.c, k, k, k};
  form.dst = {in.n, channels, in.d, in.h, in.w};
  form.stride = {1, 1, 1};
  form.begin = form.end = {k / 2, k / 2, k / 2};
  form.layout = Layout::blocked;
  return form;
}

int64_t elements(Shape shape) { return shape.n * shape.c * shape.voxels(); }

// The volume as fp32: itself, or converted in scratch memory.
const float* widened(Shape, const float* x) { return x; }
const float* widened(Shape shape, const bf16* x) {
  float* wide = scratch(elements(shape));
  share(elements(shape) / kLanes, [=](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) store(wide + i * kLanes, load(x + i * kLanes));
  });
  return wide;
}

// Where oneDNN writes what ends up in y: y itself if it is fp32 and `kept` doesn't lie there, or else scratch memory.
float* raw_place(Shape shape, float* y, const float* kept) {
  return y != kept ? y : scratch(elements(shape));
}
float* raw_place(Shape shape, bf16*, const bf16*) { return scratch(elements(shape)); }

template <class T>
bool is_empty(const Epilogue<T>& epilogue) {
  return !epilogue.scale && !epilogue.shift && epilogue.act == Act::none && !epilogue.residual &&
         !epilogue.broadcast && epilogue.act2 == Act::none && !epilogue.sums;
}

// y = finished(raw), which may be the same memory, and the sums of the finished values.
template <class T>
void finish_pass(Shape shape, const float* raw, const Epilogue<T>& epilogue, T* y) {
  const int64_t voxels = shape.voxels(), kept = epilogue.sums ? 2 * shape.c : 0;
  double* sums = task_sums(threads(), kept);
  share(shape.n * shape.blocks() * voxels, [&](int64_t first, int64_t last, int thread) {
    by_row(first, last, voxels, [&](int64_t row, int64_t begin, int64_t end) {
      int64_t sample = row / shape.blocks(), block = row % shape.blocks();
      FinishBlock<T> finish(epilogue, shape, sample, block);
      double totals[2][kLanes] = {};
      for (int64_t start = begin; start < end; start += kRun) {
        f16 sum = zero(), squares = zero();
        for (int64_t voxel = start; voxel < std::min(end, start + kRun); ++voxel) {
          int64_t at = (row * voxels + voxel) * kLanes;
          f16 value = finish.apply(load(raw + at), voxel);
          store(y + at, value);
          sum = sum + value;
          squares = fma(value, value, squares);
        }
        add_to(totals[0], sum);
        add_to(totals[1], squares);
      }
      if (!epilogue.sums) return;
      double* own = sums + thread * kept + block * kLanes;
      for (int lane = 0; lane < kLanes; ++lane) {
        own[lane] += totals[0][lane];
        own[shape.c + lane] += totals[1][lane];
      }
    });
  });
  if (epilogue.sums) add_task_sums(threads(), kept, sums, epilogue.sums);
}

}  // namespace

template <class T>
void direct_forward(Shape in, int64_t channels, int64_t k, const T* x, const float* weight, T* y,
                    const Epilogue<T>& epilogue) {
  ScratchScope scope;
  Shape out{in.n, channels, in.d, in.h, in.w};
  float* raw = raw_place(out, y, epilogue.residual);
  ConvolutionData data;
  data.src = widened(in, x);
  data.weights = weight;
  convolve(Pass::forward, same_size(in, channels, k), data, raw);
  if (static_cast<void*>(raw) != y || !is_empty(epilogue)) finish_pass(out, raw, epilogue, y);
}

template <class T>
void direct_backward_data(Shape in, int64_t channels, int64_t k, const T* dy, const float* weight, T* dx,
                          const T* add) {
  ScratchScope scope;
  float* raw = raw_place(in, dx, add);
  ConvolutionData data;
  data.dst = widened({in.n, channels, in.d, in.h, in.w}, dy);
  data.weights = weight;
  convolve(Pass::backward_data, same_size(in, channels, k), data, raw);
  Epilogue<T> sum;
  sum.residual = add;
  if (static_cast<void*>(raw) != dx || add) finish_pass(in, raw, sum, dx);
}

template <class T>
void direct_backward_weights(Shape in, int64_t channels, int64_t k, const T* x, const T* dy, float* dweight) {
  ScratchScope scope;
  ConvolutionData data;
  data.src = widened(in, x);
  data.dst = widened({in.n, channels, in.d, in.h, in.w}, dy);
  convolve(Pass::backward_weights, same_size(in, channels, k), data, dweight);
}

#define VNET_INSTANTIATE(T)                                                                                        \
  template void direct_forward<T>(Shape, int64_t, int64_t, const T*, const float*, T*, const Epilogue<T>&);        \
  template void direct_backward_data<T>(Shape, int64_t, int64_t, const T*, const float*, T*, const T*);            \
  template void direct_backward_weights<T>(Shape, int64_t, int64_t, const T*, const T*, float*);
VNET_INSTANTIATE(float)
VNET_INSTANTIATE(bf16)

}  // namespace vnet
