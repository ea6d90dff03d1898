// A mark on what a forward pass has kept for one backward pass, which overwrites it.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace vnet {

constexpr uint32_t kUsedUp = 0x7fc5e7ed;  // a NaN that no arithmetic gives

inline void mark_used_up(float* value) { std::memcpy(value, &kUsedUp, sizeof kUsedUp); }

inline void check_not_used_up(const float* value) {
  uint32_t bits;
  std::memcpy(&bits, value, sizeof bits);
  if (bits == kUsedUp)
    throw std::logic_error("a second backward pass of one forward pass, whose results the first has overwritten; run "
                           "the forward pass again, as ops.GradOperation does");
}

}  // namespace vnet
