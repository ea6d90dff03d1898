// Labels of any type that a loss is given, as fp32 lanes.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "entry.h"
#include "vec.h"

namespace vnet {

template <class Label>
VNET_INLINE f16 load_label(const Label* p) {
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = static_cast<float>(p[lane]);
  return load(lanes);
}

// The first `count` labels; the other lanes hold `rest`.
template <class Label>
VNET_INLINE f16 load_label_part(const Label* p, int64_t count, float rest) {
  if (count >= kLanes) return load_label(p);
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane < count ? static_cast<float>(p[lane]) : rest;
  return load(lanes);
}

// Calls body with a pointer of the label's type.
template <class Body>
void with_label(const Call& call, int i, Body body) {
  auto is = [&](const char* type) { return std::strcmp(call.types[i], type) == 0; };
  if (is("float32")) return body(call.get<const float>(i));
  if (is("uint8") || is("bool")) return body(call.get<const uint8_t>(i));
  if (is("int32")) return body(call.get<const int32_t>(i));
  if (is("int64")) return body(call.get<const int64_t>(i));
  throw std::invalid_argument(std::string("label of type ") + call.types[i] +
                              ", expected float32, uint8, int32, int64 or bool");
}

// Voxels of a sample: whatever its axes are.
struct Volume {
  int64_t samples, classes, voxels;
};

inline Volume check_volume(const Call& call, int logits, int label) {
  if (call.ranks[logits] < 2) throw std::invalid_argument("logits have to be (N, C, X, Y, Z)");
  int64_t samples = call.dim(logits, 0), classes = call.dim(logits, 1);
  int64_t voxels = call.size(logits) / std::max<int64_t>(1, classes * samples);
  if (call.size(label) != samples * voxels)
    throw std::invalid_argument("label has " + std::to_string(call.size(label)) + " voxels, logits have " +
                                std::to_string(samples * voxels));
  return {samples, classes, voxels};
}

}  // namespace vnet
