// The kernels' interfaces. T is float or bf16: the storage of activations; parameters and sums are fp32.
//
// Blocked volumes are (N, C/16, D, H, W, 16), plain ones (N, C, D, H, W), both contiguous; D, H, W are the network's
// X, Y, Z. Convolution weights and their gradients are plain fp32, as MindSpore keeps them: (out, in, k, k, k), and
// (in, out, k, k, k) for the transposed convolution. Every output is overwritten in full. All results are the same
// from run to run for the same number of threads. NaN and infinity in an input reach the output.
#pragma once

#include <cstdint>

#include "vec.h"

namespace vnet {

struct Shape {
  int64_t n, c, d, h, w;
  int64_t blocks() const { return c / kLanes; }
  int64_t voxels() const { return d * h * w; }
};

enum class Act { none = 0, elu = 1, prelu = 2 };

// What happens to a value y on its way to memory: act2(act(scale * y + shift) + residual). Null pointers leave
// their part out. scale, shift and the slopes hold one value a channel.
template <class T>
struct Finish {
  const float* scale = nullptr;
  const float* shift = nullptr;
  Act act = Act::none;
  const float* slope = nullptr;       // of act, if it is prelu
  const T* residual = nullptr;        // layout and size of the output
  const float* broadcast = nullptr;   // (N, 1, D, H, W): one channel added to all
  Act act2 = Act::none;
  const float* slope2 = nullptr;
};

// What leaves a convolution: the finished value, and optionally Σ v and Σ v² of the finished values v (fp32, before
// they are rounded to T) for each channel over all samples and voxels: sums[0..c) and sums[c..2c), overwritten.
template <class T>
struct Epilogue : Finish<T> {
  double* sums = nullptr;
};

enum class Tiling { direct = 0, f222 = 1, f442 = 2, f444 = 3 };

// ---- 5x5x5, stride 1, same size; in.c and channels multiples of 16 (winograd_data.cc, winograd_weights.cc).
template <class T>
void winograd_forward(Shape in, int64_t channels, const T* x, const float* weight, T* y, const Epilogue<T>& epilogue,
                      Tiling tiling);
// dx (shape `in`) = correlation of dy (in.n, channels, in.d, ...) with the flipped weights, + `add` if it is not null
// (`add` may be dx itself).
template <class T>
void winograd_backward_data(Shape in, int64_t channels, const T* dy, const float* weight, T* dx, const T* add,
                            Tiling tiling);
template <class T>
void winograd_backward_weights(Shape in, int64_t channels, const T* x, const T* dy, float* dweight, Tiling tiling);

// The same three through oneDNN's direct kernels on blocked fp32 data (onednn_blocked.cc); bf16 activations are
// converted on the way in and out. For any odd kernel edge k.
template <class T>
void direct_forward(Shape in, int64_t channels, int64_t k, const T* x, const float* weight, T* y,
                    const Epilogue<T>& epilogue);
template <class T>
void direct_backward_data(Shape in, int64_t channels, int64_t k, const T* dy, const float* weight, T* dx,
                          const T* add);
template <class T>
void direct_backward_weights(Shape in, int64_t channels, int64_t k, const T* x, const T* dy, float* dweight);

// ---- 2x2x2, stride 2, even sizes (stride2_*.cc): `in` is the larger volume's shape, `channels` those of the smaller.
template <class T>
void down_forward(Shape in, int64_t channels, const T* x, const float* weight, T* y, const Epilogue<T>& epilogue);
template <class T>
void down_backward_data(Shape in, int64_t channels, const T* dy, const float* weight, T* dx, const T* add);
template <class T>
void down_backward_weights(Shape in, int64_t channels, const T* x, const T* dy, float* dweight);

// ---- Transposed 2x2x2, stride 2 (stride2_*.cc): `in` is the smaller volume's shape, `channels` those of the larger.
template <class T>
void up_forward(Shape in, int64_t channels, const T* x, const float* weight, T* y, const Epilogue<T>& epilogue);
template <class T>
void up_backward_data(Shape in, int64_t channels, const T* dy, const float* weight, T* dx, const T* add);
template <class T>
void up_backward_weights(Shape in, int64_t channels, const T* x, const T* dy, float* dweight);

// ---- The network's edges (edge_*.cc); same size.
// One plain fp32 channel in, blocked channels out, k = 5. There is no gradient to the image.
template <class T>
void input_forward(Shape in, int64_t channels, const float* x, const float* weight, T* y,
                   const Epilogue<T>& epilogue);
template <class T>
void input_backward_weights(Shape in, int64_t channels, const float* x, const T* dy, float* dweight);
// Blocked channels in, `classes` (1 to 8) plain fp32 channels out, k = 1, 3 or 5. y = conv + bias; sums as in
// Epilogue, [2 * classes], or null.
template <class T>
void output_forward(Shape in, int64_t classes, int64_t k, const T* x, const float* weight, const float* bias, float* y,
                    double* sums);
template <class T>
void output_backward_data(Shape in, int64_t classes, int64_t k, const float* dy, const float* weight, T* dx);
template <class T>
void output_backward_weights(Shape in, int64_t classes, int64_t k, const T* x, const float* dy, float* dweight);

// ---- Normalisation, activation, residual (norm_act.cc, norm_act_plain.cc). `finish` holds the batch norm as scale = gamma / std and
// shift = beta - mean * scale, with y the raw convolution result.
// Σ y and Σ y² of each channel over all samples and voxels, to sums[0..c) and sums[c..2c).
template <class T>
void channel_sums(Shape shape, const T* y, double* sums);
// out: first `shape.blocks()` of `out_blocks` channel blocks of each sample (a joined volume when out_blocks is larger).
template <class T>
void finish_forward(Shape shape, const T* y, const Finish<T>& finish, T* out, int64_t out_blocks);
// Gradients of finish_forward by recomputing it. With z = scale * y + shift and dz its gradient:
// Σ dz and Σ dz * y to sums[0..c), sums[c..2c) (double), dslope and dslope2 ([c], null unless prelu). `dresidual`
// (null unless wanted) gets the gradient before act. dout has `dout_blocks` channel blocks a sample, of which the first count.
template <class T>
void finish_backward_sums(Shape shape, const T* dout, int64_t dout_blocks, const T* y, const Finish<T>& finish,
                          double* sums, float* dslope, float* dslope2, T* dresidual);
// dy = a * dz + b * y + c with per-channel a, b, c (batch norm's backward, or a = scale, b = c = 0); dz recomputed.
template <class T>
void finish_backward_data(Shape shape, const T* dout, int64_t dout_blocks, const T* y, const Finish<T>& finish,
                          const float* a, const float* b, const float* c, T* dy);
// The same three for plain fp32 volumes of any number of channels; no residual, no broadcast.
void plain_finish_forward(Shape shape, const float* y, const Finish<float>& finish, float* out);
void plain_finish_backward_sums(Shape shape, const float* dout, const float* y, const Finish<float>& finish,
                                double* sums, float* dslope);
void plain_finish_backward_data(Shape shape, const float* dout, const float* y, const Finish<float>& finish,
                                const float* a, const float* b, const float* c, float* dy);

// ---- Moving data (blocked.cc)
// The last shape.blocks() of `out_blocks` channel blocks of each sample of `out` = x * keep, keep (N, C), null: 1.
template <class T>
void join(Shape shape, const T* x, const float* keep, T* out, int64_t out_blocks);
// Its gradient: dx = keep * the last shape.blocks() blocks of dout.
template <class T>
void split(Shape shape, const T* dout, int64_t dout_blocks, const float* keep, T* dx);
template <class T>
void add(int64_t count, const T* a, const T* b, T* out);
// (N, C, D, H, W) fp32 <-> blocked, channels padded with zeros up to a multiple of 16 (`shape.c` is the true count).
template <class T>
void to_blocked(Shape shape, const float* plain, T* blocked);
template <class T>
void to_plain(Shape shape, const T* blocked, float* plain);

}  // namespace vnet
