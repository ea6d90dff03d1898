// Where a step's time goes: seconds added up by category, for benchmarks/cpu_vs_monai.py.
#pragma once

#include <chrono>

namespace vnet {

enum class Category { convolution, pointwise, optimizer, other, count };

// Adds its lifetime to a category; a timer inside another one takes its time out of the outer one's.
class Timer {
 public:
  explicit Timer(Category category);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  Category category_;
  Timer* outer_;
  double inner_seconds_ = 0;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace vnet
