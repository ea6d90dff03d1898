// oneDNN's direct convolutions behind plain pointers, for onednn_conv.cc, onednn_blocked.cc and picture_unit.cc.
#pragma once

#include <cstdint>
#include <vector>

namespace vnet {

enum class Pass { forward, backward_data, backward_weights };
// Of the activations: (N, C, sizes...), or (N, C/16, sizes..., 16) with C a multiple of 16.
enum class Layout { plain, blocked };

// A convolution of fp32 volumes: dst(o) = Σ weights(o, i, k) * src(i, stride * position + k - begin). Sizes are
// (N, C, sizes...) for the volumes and (out, in, kernel...) for the weights; two or three axes.
struct Convolution {
  std::vector<int64_t> src, weights, dst;
  std::vector<int64_t> stride, begin, end;
  Layout layout = Layout::plain;
  bool plain_src = false;         // whatever `layout` says of the others
  int64_t weight_channels = 0;    // input channels of the weights in memory, of which these are some; 0: all of them
  bool sum = false;               // forward: dst += in place of dst =
};

struct ConvolutionData {
  const float* src = nullptr;
  const float* weights = nullptr;
  const float* dst = nullptr;
  const float* bias = nullptr;  // of a forward pass; may be null
};

// Computes `result` from the other two volumes of `data`: dst forward, src (its gradient) or the weights (theirs)
// backward. Weights are plain.
// Throws std::invalid_argument if the sizes don't fit one another, or if there is no oneDNN.
void convolve(Pass pass, const Convolution& convolution, const ConvolutionData& data, float* result);

}  // namespace vnet
