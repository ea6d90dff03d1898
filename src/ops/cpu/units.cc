// A unit of the network as one custom operator, forward and backward: convolution, batch norm, activation, residual
// sum, second activation. Of what lies between them only the result y of a 5x5x5 convolution is kept for the way
// back; the cheap convolutions (stride 2, and the first one) are computed again, and so is everything behind y. The
// gradient at y is written over y itself.
#include <cmath>
#include <stdexcept>

#include "batch_norm.h"
#include "units.h"
#include "used_up.h"
#include "winograd_rule.h"

extern "C" int VnetHasOneDnn();

namespace vnet {

namespace {

Tiling tiling_for(const Config& config, Shape in, int64_t channels, Direction direction) {
  bool direct = VnetHasOneDnn() == 1;  // the direct kernels are oneDNN's
  if (config.algorithm == 1 && direct) return Tiling::direct;
  Tiling tiling = choose_tiling(in, channels, direction);
  return tiling == Tiling::direct && (config.algorithm == 2 || !direct) ? Tiling::f222 : tiling;
}

template <class T>
void convolve(const Config& config, Shape in, int64_t channels, const void* x, const float* weight, T* y,
              const Epilogue<T>& epilogue) {
  Timer timer(Category::convolution);
  const T* blocked = static_cast<const T*>(x);
  switch (config.kind) {
    case kSame: {
      Tiling tiling = tiling_for(config, in, channels, Direction::forward);
      if (tiling == Tiling::direct) return direct_forward<T>(in, channels, 5, blocked, weight, y, epilogue);
      return winograd_forward<T>(in, channels, blocked, weight, y, epilogue, tiling);
    }
    case kDown:
      return down_forward<T>(in, channels, blocked, weight, y, epilogue);
    case kUp:
      return up_forward<T>(in, channels, blocked, weight, y, epilogue);
    case kInput:
      return input_forward<T>(in, channels, static_cast<const float*>(x), weight, y, epilogue);
    default:
      throw std::invalid_argument("unit of unknown kind");
  }
}

template <class T>
void convolve_backward(const Config& config, Shape in, int64_t channels, const void* x, const float* weight,
                       const T* dy, T* dx, const T* add, float* dweight) {
  Timer timer(Category::convolution);
  const T* blocked = static_cast<const T*>(x);
  switch (config.kind) {
    case kSame: {
      Tiling tiling = tiling_for(config, in, channels, Direction::backward_weights);
      if (tiling == Tiling::direct)
        direct_backward_weights<T>(in, channels, 5, blocked, dy, dweight);
      else
        winograd_backward_weights<T>(in, channels, blocked, dy, dweight, tiling);
      tiling = tiling_for(config, in, channels, Direction::backward_data);
      if (tiling == Tiling::direct)
        direct_backward_data<T>(in, channels, 5, dy, weight, dx, add);
      else
        winograd_backward_data<T>(in, channels, dy, weight, dx, add, tiling);
      return;
    }
    case kDown:
      down_backward_weights<T>(in, channels, blocked, dy, dweight);
      return down_backward_data<T>(in, channels, dy, weight, dx, add);
    case kUp:
      up_backward_weights<T>(in, channels, blocked, dy, dweight);
      return up_backward_data<T>(in, channels, dy, weight, dx, add);
    case kInput:
      return input_backward_weights<T>(in, channels, static_cast<const float*>(x), dy, dweight);
    default:
      throw std::invalid_argument("unit of unknown kind");
  }
}

template <class T>
void set_tail(const Config& config, const void* residual, const float* slope, const float* slope2,
              Finish<T>& finish) {
  finish.act = config.act;
  finish.act2 = config.act2;
  finish.slope = slope;
  finish.slope2 = slope2;
  if (config.residual == kImage)
    finish.broadcast = static_cast<const float*>(residual);
  else if (config.residual != kNone)
    finish.residual = static_cast<const T*>(residual);
}

// From the sums the statistics, and the scale and shift that normalise.
void normalise(const Call& call, Shape out, const double* sums, float* scale, float* shift) {
  const float* eps_momentum = call.get<float>(iConstants);
  float* stats = call.get<float>(iForwardCount + 2);
  // Where each sample has its own statistics there is nothing to remember.
  bool moves = read_config(call).norm == Norm::batch;
  batch_statistics(out.c, static_cast<double>(out.n * out.voxels()), sums, eps_momentum[0], eps_momentum[1], stats,
                   moves ? call.get<float>(iMean) : nullptr, moves ? call.get<float>(iVariance) : nullptr);
  scale_and_shift(out.c, stats, stats + out.c, call.get<float>(iGamma), call.get<float>(iBeta), scale, shift);
}

}  // namespace

template <class T>
void unit_convolve(const Call& call, T* y, double* sums) {
  Config config = read_config(call);
  Epilogue<T> epilogue;
  epilogue.shift = call.get<float>(iBias);
  epilogue.sums = sums;
  convolve<T>(config, shape_of(call, iX), channels_of(call, config, iWeight), call.data[iX],
              call.get<float>(iWeight), y, epilogue);
}

template <class T>
void unit_finish(const Call& call, const T* y, const double* sums) {
  Timer timer(Category::pointwise);
  Config config = read_config(call);
  int64_t channels = channels_of(call, config, iWeight);
  Shape out = result_shape(config, shape_of(call, iX), channels);
  Constants constants(channels);
  float *scale = constants.floats(), *shift = constants.floats();
  int iOut = iForwardCount + 1;
  if (config.norm != Norm::none) normalise(call, out, sums, scale, shift);
  Finish<T> finish;
  const void* residual = config.residual == kOwn ? call.data[iX] : call.data[iResidual];
  set_tail(config, config.joined ? nullptr : residual, call.get<float>(iSlope), call.get<float>(iSlope2), finish);
  if (config.norm != Norm::none) finish.scale = scale, finish.shift = shift;
  int64_t out_blocks = call.dim(iOut, 1);
  finish_forward<T>(out, y, finish, call.get<T>(iOut), out_blocks);
  if (config.joined) {
    const float* keep = call.size(iKeep) > 1 ? call.get<float>(iKeep) : nullptr;
    join<T>(shape_of(call, iResidual), call.get<T>(iResidual), keep, call.get<T>(iOut), out_blocks);
  }
}

template <class T>
void unit_forward(const Call& call) {
  Config config = read_config(call);
  Shape in = shape_of(call, iX);
  int iY = iForwardCount, iOut = iY + 1, iStats = iY + 2;
  int64_t channels = channels_of(call, config, iWeight);
  Shape out = result_shape(config, in, channels);
  Constants constants(channels);
  double* sums = config.norm != Norm::none ? constants.doubles(2) : nullptr;
  call.get<float>(iStats)[0] = 0;
  if (config.kind != kOutput) {
    T* y = keeps_result(config) ? call.get<T>(iY) : scratch_volume<T>(out);
    unit_convolve<T>(call, y, sums);
    return unit_finish<T>(call, y, sums);
  }
  {
    Timer timer(Category::convolution);
    output_forward<T>(in, channels, config.kernel, call.get<T>(iX), call.get<float>(iWeight), call.get<float>(iBias),
                      call.get<float>(iY), sums);
  }
  Timer timer(Category::pointwise);
  float *scale = constants.floats(), *shift = constants.floats();
  if (config.norm != Norm::none) normalise(call, out, sums, scale, shift);
  Finish<float> finish;
  set_tail(config, nullptr, call.get<float>(iSlope), call.get<float>(iSlope2), finish);
  if (config.norm != Norm::none) finish.scale = scale, finish.shift = shift;
  plain_finish_forward(out, call.get<float>(iY), finish, call.get<float>(iOut));
}

template <class T>
void unit_inference(const Call& call) {
  Config config = read_config(call);
  Shape in = shape_of(call, iX);
  int iOut = iForwardCount;
  int64_t channels = channels_of(call, config, iWeight);
  Constants constants(channels);
  float *scale = constants.floats(), *shift = constants.floats(), *inverse = constants.floats();
  const float *bias = call.get<float>(iBias), *weight = call.get<float>(iWeight);
  if (config.norm != Norm::none) {
    const float* variance = call.get<float>(iVariance);
    for (int64_t c = 0; c < channels; ++c) inverse[c] = 1.0f / std::sqrt(variance[c] + call.get<float>(iConstants)[0]);
    scale_and_shift(channels, call.get<float>(iMean), inverse, call.get<float>(iGamma), call.get<float>(iBeta), scale,
                    shift);
    for (int64_t c = 0; c < channels; ++c) shift[c] += bias[c] * scale[c];
  }
  const float *slope = call.get<float>(iSlope), *slope2 = call.get<float>(iSlope2);
  if (config.kind == kOutput) {
    float* out = call.get<float>(iOut);
    {
      Timer timer(Category::convolution);
      output_forward<T>(in, channels, config.kernel, call.get<T>(iX), weight,
                        config.norm != Norm::none ? nullptr : bias, out, nullptr);
    }
    Timer timer(Category::pointwise);
    Finish<float> finish;
    set_tail(config, nullptr, slope, slope2, finish);
    if (config.norm != Norm::none) finish.scale = scale, finish.shift = shift;
    return plain_finish_forward(shape_of(call, iOut), out, finish, out);
  }
  Epilogue<T> epilogue;
  const void* residual = config.residual == kOwn ? call.data[iX] : call.data[iResidual];
  set_tail(config, config.joined ? nullptr : residual, slope, slope2, epilogue);
  epilogue.scale = config.norm != Norm::none ? scale : nullptr;
  epilogue.shift = config.norm != Norm::none ? shift : bias;
  T* out = call.get<T>(iOut);
  if (!config.joined) return convolve<T>(config, in, channels, call.data[iX], weight, out, epilogue);
  // The unit's part of a joined volume is contiguous within one sample only.
  Shape skip = shape_of(call, iResidual), one = in;
  int64_t sample = call.dim(iOut, 1) * kLanes * skip.voxels();
  one.n = 1;
  for (int64_t n = 0; n < in.n; ++n)
    convolve<T>(config, one, channels, call.get<T>(iX) + n * in.c * in.voxels(), weight, out + n * sample, epilogue);
  Timer timer(Category::pointwise);
  join<T>(skip, call.get<T>(iResidual), call.size(iKeep) > 1 ? call.get<float>(iKeep) : nullptr, out,
          call.dim(iOut, 1));
}

namespace {

// What of the backward pass both kinds of results have: the normalisation again, and the parameters' gradients.
struct ResultGradient {
  Config config;
  Shape out;
  Constants constants;
  double* sums;
  float *scale, *shift, *a, *b, *c, *dslope, *dslope2;

  explicit ResultGradient(const Call& call)
      : config(read_config(call)),
        out(result_shape(config, shape_of(call, bX), channels_of(call, config, bWeight))),
        constants(out.c),
        sums(constants.doubles(2)),
        scale(constants.floats()), shift(constants.floats()),
        a(constants.floats()), b(constants.floats()), c(constants.floats()),
        dslope(config.act == Act::prelu ? call.get<float>(bDslope) : nullptr),
        dslope2(config.act2 == Act::prelu ? call.get<float>(bDslope2) : nullptr) {
    const float* stats = call.get<float>(bStats);
    if (config.norm != Norm::none)
      scale_and_shift(out.c, stats, stats + out.c, call.get<float>(bGamma), call.get<float>(bBeta), scale, shift);
  }

  template <class T>
  Finish<T> finish(const Call& call, const void* residual) const {
    Finish<T> finish;
    set_tail(config, residual, call.get<float>(bSlope), call.get<float>(bSlope2), finish);
    if (config.norm != Norm::none) finish.scale = scale, finish.shift = shift;
    return finish;
  }

  void after_sums(const Call& call) {
    float* dbias = call.get<float>(bDbias);
    for (int64_t i = 0; i < out.c; ++i) {
      // A norm takes the bias out again: its gradient is zero, not merely small.
      dbias[i] = config.norm != Norm::none ? 0.0f : static_cast<float>(sums[i]);
      a[i] = 1, b[i] = 0, c[i] = 0;
    }
    if (config.norm != Norm::none)
      normalisation_gradients(out.c, static_cast<double>(out.n * out.voxels()), sums, call.get<float>(bStats), scale,
                              call.get<float>(bDgamma), call.get<float>(bDbeta), a, b, c);
    if (keeps_result(config)) mark_used_up(call.get<float>(bStats));  // from here on y is written
  }
};

}  // namespace

template <class T>
T* unit_convolved(const Call& call) {
  Config config = read_config(call);
  if (keeps_result(config)) return call.get<T>(bY);
  Shape in = shape_of(call, bX);
  int64_t channels = channels_of(call, config, bWeight);
  T* y = scratch_volume<T>(result_shape(config, in, channels));
  Epilogue<T> epilogue;
  epilogue.shift = call.get<float>(bBias);
  convolve<T>(config, in, channels, call.data[bX], call.get<float>(bWeight), y, epilogue);
  return y;
}

template <class T>
void unit_backward_finish(const Call& call, T* y) {
  Timer timer(Category::pointwise);
  check_not_used_up(call.get<float>(bStats));
  ResultGradient gradient(call);
  const Config& config = gradient.config;
  const void* residual = config.residual == kOwn ? call.data[bX] : call.data[bResidual];
  Finish<T> finish = gradient.finish<T>(call, config.joined ? nullptr : residual);
  const T* dout = call.get<T>(bDout);
  T* dresidual = config.residual == kOwn ? call.get<T>(bDx)
                 : config.residual == kGiven ? call.get<T>(bDresidual) : nullptr;
  if (config.joined) dresidual = nullptr;
  int64_t dout_blocks = call.dim(bDout, 1);
  finish_backward_sums<T>(gradient.out, dout, dout_blocks, y, finish, gradient.sums, gradient.dslope, gradient.dslope2,
                          dresidual);
  gradient.after_sums(call);
  if (dresidual != nullptr) {
    // What came out as the residual's gradient is the one before the sum: neither has to be found again.
    finish.residual = nullptr;
    finish.act2 = Act::none;
    dout = dresidual, dout_blocks = gradient.out.blocks();
  }
  finish_backward_data<T>(gradient.out, dout, dout_blocks, y, finish, gradient.a, gradient.b, gradient.c, y);
  if (config.joined) {
    const float* keep = call.size(bKeep) > 1 ? call.get<float>(bKeep) : nullptr;
    split<T>(shape_of(call, bResidual), dout, dout_blocks, keep, call.get<T>(bDresidual));
  }
}

template <class T>
void unit_backward_convolve(const Call& call, const T* dy) {
  Config config = read_config(call);
  T *dx = config.kind == kInput ? nullptr : call.get<T>(bDx), *add = config.residual == kOwn ? dx : nullptr;
  convolve_backward<T>(config, shape_of(call, bX), channels_of(call, config, bWeight), call.data[bX],
                       call.get<float>(bWeight), dy, dx, add, call.get<float>(bDweight));
}

template <class T>
void unit_backward(const Call& call) {
  Config config = read_config(call);
  if (config.kind != kOutput) {
    T* y = unit_convolved<T>(call);
    unit_backward_finish<T>(call, y);
    return unit_backward_convolve<T>(call, y);
  }
  check_not_used_up(call.get<float>(bStats));
  float *dout = call.get<float>(bDout), *y = call.get<float>(bY);
  Shape in = shape_of(call, bX);
  {
    Timer timer(Category::pointwise);
    ResultGradient gradient(call);
    Finish<float> finish = gradient.finish<float>(call, nullptr);
    plain_finish_backward_sums(gradient.out, dout, y, finish, gradient.sums, gradient.dslope);
    gradient.after_sums(call);
    plain_finish_backward_data(gradient.out, dout, y, finish, gradient.a, gradient.b, gradient.c, y);
  }
  Timer timer(Category::convolution);
  int64_t channels = channels_of(call, config, bWeight);
  output_backward_weights<T>(in, channels, config.kernel, call.get<T>(bX), y, call.get<float>(bDweight));
  output_backward_data<T>(in, channels, config.kernel, y, call.get<float>(bWeight), call.get<T>(bDx));
}

#define VNET_INSTANTIATE(T)                                             \
  template void unit_convolve<T>(const Call&, T*, double*);             \
  template void unit_finish<T>(const Call&, const T*, const double*);   \
  template void unit_forward<T>(const Call&);                           \
  template void unit_inference<T>(const Call&);                         \
  template T* unit_convolved<T>(const Call&);                           \
  template void unit_backward_finish<T>(const Call&, T*);               \
  template void unit_backward_convolve<T>(const Call&, const T*);       \
  template void unit_backward<T>(const Call&);
VNET_INSTANTIATE(float)
VNET_INSTANTIATE(bf16)

}  // namespace vnet
