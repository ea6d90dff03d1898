// Weights of a 5x5x5 convolution as the Winograd matrix products take them.
#pragma once

#include "threads.h"
#include "winograd_tile.h"

namespace vnet {

// For each of the AlphaD * AlphaH * AlphaW points (depth fastest: (h * AlphaW + w) * AlphaD + d) a matrix of `inputs`
// rows and `outputs` columns, cut into panels of `panel` blocks of sixteen columns, each panel contiguous.
struct KernelLayout {
  int64_t inputs, outputs;
  int panel;
  // Sixteen floats more than the matrix: at a power of two all points would fall into the same cache sets.
  int64_t stride;

  KernelLayout(int64_t inputs, int64_t outputs, int panel)
      : inputs(inputs), outputs(outputs), panel(panel), stride(inputs * outputs + kLanes) {}
  // Where the row `input` of the column block `block` is within a point's matrix.
  int64_t offset(int64_t input, int64_t block) const {
    return (block / panel * inputs + input) * panel * kLanes + block % panel * kLanes;
  }
};

// Which way the weights (out, in, 5, 5, 5) are used: as they are, or, for the gradient to the input, flipped on all
// axes with the output channels as inputs of the product.
enum class KernelUse { forward, backward_data };

template <int AlphaD, int AlphaH, int AlphaW>
void transform_weights(const float* weight, KernelUse use, const KernelLayout& layout, float* transformed);

}  // namespace vnet
