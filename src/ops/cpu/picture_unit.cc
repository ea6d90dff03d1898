// A unit of a two-dimensional network as one custom operator, forward and backward: convolution of one input or of
// several that count as joined in their channels, batch norm or bias, residual sum, ReLU.
//
// Pictures lie in memory as volumes of one plane, (N, C/16, 1, H, W, 16), so that what moves or adds volumes serves them
// too. Joined inputs are never copied side by side: each is convolved with its part of the weights, and the results are
// summed. Of a unit the convolution's result is kept for the way back, and all behind it is computed again.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "batch_norm.h"
#include "entry.h"
#include "onednn.h"
#include "rows.h"

namespace vnet {

namespace {

constexpr int kMostInputs = 5;  // src/ops/picture_op.py pads with tensors of one axis

// The `config` tensor, int64; src/ops/picture_op.py writes it.
struct Config {
  bool transposed;
  int64_t kernel, stride;
  bool norm, relu, residual;
  bool keeps() const { return norm || relu || residual; }  // the convolution's result, apart from the unit's
};

Config read_config(const Call& call) {
  const int64_t* v = call.get<int64_t>(0);
  return {v[0] != 0, v[1], v[2], v[3] != 0, v[4] != 0, v[5] != 0};
}

Shape shape_of(const Call& call, int i) {
  const int64_t* s = call.shapes[i];
  if (call.ranks[i] == 6) return {s[0], s[1] * kLanes, 1, s[3], s[4]};
  if (call.ranks[i] == 4) return {s[0], s[1], 1, s[2], s[3]};
  throw std::invalid_argument("picture unit: a picture has 4 axes, or 6 in blocks");
}

int64_t elements(Shape shape) { return shape.n * shape.c * shape.voxels(); }

// One of the inputs, and the convolution of it.
struct Part {
  int argument;
  int64_t weight_offset;
  bool plain;
  Convolution form;
};

// first: argument number of the first input. out: the convolution's result.
std::vector<Part> parts_of(const Call& call, const Config& config, int first, int weight, Shape out) {
  std::vector<Part> parts;
  int64_t k = config.kernel, pad = (k - 1) / 2, channels = 0;
  for (int i = first; i < first + kMostInputs && call.ranks[i] > 1; ++i) {
    Shape in = shape_of(call, i);
    Part part{i, channels * k * k, call.ranks[i] == 4, {}};
    Convolution& form = part.form;
    form.src = {in.n, in.c, in.h, in.w};
    form.dst = {out.n, out.c, out.h, out.w};
    if (config.transposed) std::swap(form.src, form.dst);
    form.weights = {form.dst[1], form.src[1], k, k};
    form.stride = {config.stride, config.stride};
    form.begin = form.end = {pad, pad};
    form.layout = Layout::blocked;
    form.plain_src = part.plain;
    channels += in.c;
    parts.push_back(part);
  }
  if (parts.empty() || channels != call.dim(weight, config.transposed ? 0 : 1)) {
    throw std::invalid_argument("picture unit: the inputs' channels don't fit the weights");
  }
  if (config.transposed && parts.size() > 1) {
    throw std::invalid_argument("picture unit: a transposed convolution has one input");
  }
  for (Part& part : parts) part.form.weight_channels = parts.size() > 1 ? channels : 0;
  return parts;
}

void convolve_parts(const Call& call, const Config& config, std::vector<Part>& parts, const float* weight, float* y) {
  Timer timer(Category::convolution);
  for (size_t i = 0; i < parts.size(); ++i) {
    ConvolutionData data;
    data.weights = weight + parts[i].weight_offset;
    (config.transposed ? data.dst : data.src) = call.get<float>(parts[i].argument);
    parts[i].form.sum = i > 0;
    convolve(config.transposed ? Pass::backward_data : Pass::forward, parts[i].form, data, y);
    parts[i].form.sum = false;
  }
}

// What follows the convolution. A ReLU is a PReLU of slope 0.
Finish<float> tail(const Config& config, const float* scale, const float* shift, const float* residual,
                   const float* zeros) {
  Finish<float> finish;
  finish.scale = config.norm ? scale : nullptr;
  finish.shift = shift;
  finish.residual = config.residual ? residual : nullptr;
  if (config.relu) finish.act2 = Act::prelu, finish.slope2 = zeros;
  return finish;
}

// Arguments of forward and inference; what a unit lacks is a tensor of one value.
enum Input { iConfig, iConstants, iWeight, iBias, iGamma, iBeta, iMean, iVariance, iResidual, iX,
             iInputs = iX + kMostInputs };

// Without batch norm: the bias if there is one, on every lane.
const float* bias_or_zeros(const Call& call, int i, int64_t channels, const float* zeros) {
  return call.size(i) == channels ? call.get<float>(i) : zeros;
}

void forward(const Call& call) {
  Config config = read_config(call);
  int iY = iInputs, iOut = iY + 1, iStats = iY + 2;
  Shape out = shape_of(call, iOut);
  std::vector<Part> parts = parts_of(call, config, iX, iWeight, out);
  float* y = config.keeps() ? call.get<float>(iY) : call.get<float>(iOut);
  convolve_parts(call, config, parts, call.get<float>(iWeight), y);
  Timer timer(Category::pointwise);
  Constants values(out.c);
  double* sums = values.doubles(2);
  float *scale = values.floats(), *shift = values.floats(), *zeros = values.floats();
  std::fill_n(zeros, out.c, 0.0f);
  const float* added = bias_or_zeros(call, iBias, out.c, zeros);
  if (config.norm) {
    const float* eps_momentum = call.get<float>(iConstants);
    float* stats = call.get<float>(iStats);
    channel_sums<float>(out, y, sums);
    batch_statistics(out.c, static_cast<double>(out.n * out.voxels()), sums, eps_momentum[0], eps_momentum[1], stats,
                     call.get<float>(iMean), call.get<float>(iVariance));
    scale_and_shift(out.c, stats, stats + out.c, call.get<float>(iGamma), call.get<float>(iBeta), scale, shift);
    added = shift;
  }
  if (!config.keeps() && added == zeros) return;
  finish_forward<float>(out, y, tail(config, scale, added, call.get<float>(iResidual), zeros), call.get<float>(iOut),
                        out.blocks());
}

void inference(const Call& call) {
  Config config = read_config(call);
  int iOut = iInputs;
  Shape out = shape_of(call, iOut);
  std::vector<Part> parts = parts_of(call, config, iX, iWeight, out);
  float* y = call.get<float>(iOut);
  convolve_parts(call, config, parts, call.get<float>(iWeight), y);
  Timer timer(Category::pointwise);
  Constants values(out.c);
  float *scale = values.floats(), *shift = values.floats(), *zeros = values.floats(), *inverse = values.floats();
  std::fill_n(zeros, out.c, 0.0f);
  const float* added = bias_or_zeros(call, iBias, out.c, zeros);
  if (config.norm) {
    const float* variance = call.get<float>(iVariance);
    float epsilon = call.get<float>(iConstants)[0];
    for (int64_t c = 0; c < out.c; ++c) inverse[c] = 1.0f / std::sqrt(variance[c] + epsilon);
    scale_and_shift(out.c, call.get<float>(iMean), inverse, call.get<float>(iGamma), call.get<float>(iBeta), scale,
                    shift);
    added = shift;
  }
  if (!config.keeps() && added == zeros) return;
  finish_forward<float>(out, y, tail(config, scale, added, call.get<float>(iResidual), zeros), y, out.blocks());
}

enum BackwardArgument { bConfig, bDout, bWeight, bBias, bY, bStats, bGamma, bBeta, bResidual, bX,
                        bDweight = bX + kMostInputs, bDbias, bDgamma, bDbeta, bDresidual, bDx };

// The gradient at the convolution's result, in scratch memory or where it comes from; writes those at bias, gamma, beta
// and residual.
const float* result_gradient(const Call& call, const Config& config, Shape out) {
  Timer timer(Category::pointwise);
  Constants values(out.c);
  double* sums = values.doubles(2);
  float *scale = values.floats(), *shift = values.floats(), *zeros = values.floats(), *a = values.floats(),
        *b = values.floats(), *c = values.floats();
  std::fill_n(zeros, out.c, 0.0f);
  const float *dout = call.get<float>(bDout), *stats = call.get<float>(bStats);
  const float* added = bias_or_zeros(call, bBias, out.c, zeros);
  bool biased = added != zeros;
  if (!config.keeps() && !biased) return dout;
  const float* y = config.keeps() ? call.get<float>(bY) : dout;  // without a curve its values do not matter
  if (config.norm) {
    scale_and_shift(out.c, stats, stats + out.c, call.get<float>(bGamma), call.get<float>(bBeta), scale, shift);
    added = shift;
  }
  Finish<float> finish = tail(config, scale, added, call.get<float>(bResidual), zeros);
  float* dresidual = config.residual ? call.get<float>(bDresidual) : nullptr;
  finish_backward_sums<float>(out, dout, out.blocks(), y, finish, sums, nullptr, nullptr, dresidual);
  if (biased) {
    float* dbias = call.get<float>(bDbias);
    for (int64_t i = 0; i < out.c; ++i) dbias[i] = static_cast<float>(sums[i]);
  }
  if (!config.keeps()) return dout;
  for (int64_t i = 0; i < out.c; ++i) a[i] = 1, b[i] = 0, c[i] = 0;
  if (config.norm) {
    normalisation_gradients(out.c, static_cast<double>(out.n * out.voxels()), sums, stats, scale,
                            call.get<float>(bDgamma), call.get<float>(bDbeta), a, b, c);
  }
  if (dresidual != nullptr) {
    // The residual's gradient is the one before the sum: neither has to be found again.
    finish.residual = nullptr;
    finish.act2 = Act::none;
    dout = dresidual;
    if (!config.norm) return dout;
  }
  float* dy = scratch(elements(out));
  finish_backward_data<float>(out, dout, out.blocks(), y, finish, a, b, c, dy);
  return dy;
}

void backward(const Call& call) {
  Config config = read_config(call);
  Shape out = shape_of(call, bDout);
  std::vector<Part> parts = parts_of(call, config, bX, bWeight, out);
  const float* dy = result_gradient(call, config, out);
  Timer timer(Category::convolution);
  for (size_t i = 0; i < parts.size(); ++i) {
    Part& part = parts[i];
    ConvolutionData data;
    (config.transposed ? data.src : data.dst) = dy;
    (config.transposed ? data.dst : data.src) = call.get<float>(part.argument);
    convolve(Pass::backward_weights, part.form, data, call.get<float>(bDweight) + part.weight_offset);
    if (part.plain) continue;  // the image
    data.weights = call.get<float>(bWeight) + part.weight_offset;
    convolve(config.transposed ? Pass::forward : Pass::backward_data, part.form, data,
             call.get<float>(bDx + static_cast<int>(i)));
  }
}

}  // namespace

}  // namespace vnet

VNET_ENTRY(PictureForward) { vnet::forward(call); }
VNET_ENTRY(PictureInference) { vnet::inference(call); }
VNET_ENTRY(PictureBackward) { vnet::backward(call); }
