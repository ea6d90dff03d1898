// Custom operators for convolutions of any kernel, stride and padding on plain fp32 volumes, through oneDNN (onednn.h).
//
// The first input says what kind it is (src/ops/conv.py writes it): int64 [axes, transposed, same, stride...,
// begin..., end...], where `same` stands for padding that makes the larger size stride times the smaller one, rounded
// up. A transposed convolution is a convolution's gradient to its input, with the weights (in, out, k...) as they are;
// so its own gradient to the input is that convolution.
#include <algorithm>
#include <stdexcept>

#include "entry.h"
#include "onednn.h"

#if defined(VNET_ONEDNN)

namespace vnet {

namespace {

std::vector<int64_t> shape_of(const Call& call, int i) {
  return std::vector<int64_t>(call.shapes[i], call.shapes[i] + call.ranks[i]);
}

// The convolution behind a call. x, y, weights: which arguments are the operator's input, output and weights, or have
// their shapes.
struct Request {
  bool transposed;
  Convolution form;

  Request(const Call& call, int x, int weights, int y) {
    const int64_t* config = call.get<int64_t>(0);
    int64_t length = call.size(0), axes = length > 0 ? config[0] : 0;
    if (axes < 1 || length != 3 + 3 * axes || call.ranks[x] != axes + 2 || call.ranks[y] != axes + 2) {
      throw std::invalid_argument("convolution: its description doesn't fit the input");
    }
    transposed = config[1] != 0;
    form.src = shape_of(call, transposed ? y : x);
    form.dst = shape_of(call, transposed ? x : y);
    form.weights = shape_of(call, weights);
    form.stride.assign(config + 3, config + 3 + axes);
    form.begin.assign(config + 3 + axes, config + 3 + 2 * axes);
    form.end.assign(config + 3 + 2 * axes, config + 3 + 3 * axes);
    if (config[2] == 0) return;
    for (int64_t i = 0; i < axes; ++i) {
      int64_t covered = (form.dst[i + 2] - 1) * form.stride[i] + form.weights[i + 2];
      int64_t padding = std::max<int64_t>(covered - form.src[i + 2], 0);
      form.begin[i] = padding / 2;
      form.end[i] = padding - form.begin[i];
    }
  }
};

int64_t voxels_of(const Call& call, int i) { return call.size(i) / (call.dim(i, 0) * call.dim(i, 1)); }

// y += bias of the channel.
void add_bias(const Call& call, int output, const float* bias) {
  float* y = call.get<float>(output);
  int64_t channels = call.dim(output, 1), voxels = voxels_of(call, output);
  share(call.size(output), [=](int64_t first, int64_t last, int) {
    while (first < last) {
      int64_t row = first / voxels, end = std::min(last, (row + 1) * voxels);
      float value = bias[row % channels];
      for (; first < end; ++first) y[first] += value;
    }
  });
}

// sums = Σ of a channel's values over samples and voxels.
void channel_sums(const Call& call, int input, float* sums) {
  constexpr int kParts = 16;
  constexpr int64_t kRun = 2048;  // values that are summed in fp32 before the sum goes to a double
  const float* x = call.get<float>(input);
  int64_t samples = call.dim(input, 0), channels = call.dim(input, 1), voxels = voxels_of(call, input);
  share(channels, [=](int64_t first, int64_t last, int) {
    for (int64_t channel = first; channel < last; ++channel) {
      double total = 0;
      for (int64_t sample = 0; sample < samples; ++sample) {
        const float* row = x + (sample * channels + channel) * voxels;
        for (int64_t begin = 0; begin < voxels; begin += kRun) {
          int64_t end = std::min(voxels, begin + kRun), i = begin;
          float parts[kParts] = {};
          for (; i + kParts <= end; i += kParts) {
            for (int part = 0; part < kParts; ++part) parts[part] += row[i + part];
          }
          for (int part = 0; part < kParts; ++part) total += parts[part];
          for (; i < end; ++i) total += row[i];
        }
      }
      sums[channel] = static_cast<float>(total);
    }
  });
}

}  // namespace

}  // namespace vnet

// config, x, weights[, bias] -> y
VNET_ENTRY(ConvForward) {
  using namespace vnet;
  int output = call.count - 1;
  const float* bias = call.count == 5 ? call.get<float>(3) : nullptr;
  Request request(call, 1, 2, output);
  ConvolutionData data;
  data.weights = call.get<float>(2);
  if (request.transposed) {
    data.dst = call.get<float>(1);
    convolve(Pass::backward_data, request.form, data, call.get<float>(output));
    if (bias) add_bias(call, output, bias);
  } else {
    data.src = call.get<float>(1);
    data.bias = bias;
    convolve(Pass::forward, request.form, data, call.get<float>(output));
  }
}

// config, dy, weights, x (for its shape) -> dx
VNET_ENTRY(ConvBackwardData) {
  using namespace vnet;
  Request request(call, 3, 2, 1);
  ConvolutionData data;
  data.weights = call.get<float>(2);
  (request.transposed ? data.src : data.dst) = call.get<float>(1);
  convolve(request.transposed ? Pass::forward : Pass::backward_data, request.form, data, call.get<float>(4));
}

// config, x, dy -> dweights[, dbias]
VNET_ENTRY(ConvBackwardWeights) {
  using namespace vnet;
  Request request(call, 1, 3, 2);
  ConvolutionData data;
  data.src = call.get<float>(request.transposed ? 2 : 1);
  data.dst = call.get<float>(request.transposed ? 1 : 2);
  convolve(Pass::backward_weights, request.form, data, call.get<float>(3));
  if (call.count == 5) channel_sums(call, 2, call.get<float>(4));
}

#endif  // VNET_ONEDNN
