// Which form of convolution a 5x5x5 layer uses.
#pragma once

#include "kernels.h"

namespace vnet {

enum class Direction { forward, backward_data, backward_weights };

// The form with the least estimated time. It depends on sizes alone, so a layer is computed the same way each time.
// `in` is the input's shape and `channels` those of the output, in each direction; channels that are not multiples of
// 16 get Tiling::direct.
Tiling choose_tiling(Shape in, int64_t channels, Direction direction);

}  // namespace vnet
