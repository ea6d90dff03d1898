// Operators that move or add whole volumes between units.
#include "entry.h"

// Gradients that meet: a, b -> a + b.
VNET_ENTRY(AddVolumes) {
  vnet::Timer timer(vnet::Category::pointwise);
  if (call.is_bf16(0))
    vnet::add<vnet::bf16>(call.size(0), call.get<vnet::bf16>(0), call.get<vnet::bf16>(1), call.get<vnet::bf16>(2));
  else
    vnet::add<float>(call.size(0), call.get<float>(0), call.get<float>(1), call.get<float>(2));
}

// x (N, C/16, D, H, W, 16), keep (N, C) -> x * keep.
VNET_ENTRY(ScaleChannels) {
  vnet::Timer timer(vnet::Category::pointwise);
  vnet::Shape shape{call.dim(0, 0), call.dim(0, 1) * vnet::kLanes, call.dim(0, 2), call.dim(0, 3), call.dim(0, 4)};
  if (call.is_bf16(0))
    vnet::join<vnet::bf16>(shape, call.get<vnet::bf16>(0), call.get<float>(1), call.get<vnet::bf16>(2), shape.blocks());
  else
    vnet::join<float>(shape, call.get<float>(0), call.get<float>(1), call.get<float>(2), shape.blocks());
}

// (N, C, D, H, W) fp32 -> (N, C/16, D, H, W, 16).
VNET_ENTRY(ToBlocked) {
  vnet::Timer timer(vnet::Category::pointwise);
  vnet::Shape shape{call.dim(0, 0), call.dim(0, 1), call.dim(0, 2), call.dim(0, 3), call.dim(0, 4)};
  if (call.is_bf16(1))
    vnet::to_blocked<vnet::bf16>(shape, call.get<float>(0), call.get<vnet::bf16>(1));
  else
    vnet::to_blocked<float>(shape, call.get<float>(0), call.get<float>(1));
}

// (N, C/16, D, H, W, 16) -> (N, C, D, H, W) fp32.
VNET_ENTRY(ToPlain) {
  vnet::Timer timer(vnet::Category::pointwise);
  vnet::Shape shape{call.dim(1, 0), call.dim(1, 1), call.dim(1, 2), call.dim(1, 3), call.dim(1, 4)};
  if (call.is_bf16(0))
    vnet::to_plain<vnet::bf16>(shape, call.get<vnet::bf16>(0), call.get<float>(1));
  else
    vnet::to_plain<float>(shape, call.get<float>(0), call.get<float>(1));
}
