#include "profile.h"

namespace vnet {

namespace {

double seconds[static_cast<int>(Category::count)];
// Entries run one after the other (entry.h), each on one thread: a plain variable is enough.
Timer* current = nullptr;

}  // namespace

Timer::Timer(Category category) : category_(category), outer_(current), start_(std::chrono::steady_clock::now()) {
  current = this;
}

Timer::~Timer() {
  double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  seconds[static_cast<int>(category_)] += elapsed - inner_seconds_;
  if (outer_ != nullptr) outer_->inner_seconds_ += elapsed;
  current = outer_;
}

}  // namespace vnet

// Copies the seconds since the last call to out[0..4): convolution, pointwise, optimizer, other; and starts anew.
extern "C" void VnetProfile(double* out) {
  for (int i = 0; i < static_cast<int>(vnet::Category::count); ++i) {
    out[i] = vnet::seconds[i];
    vnet::seconds[i] = 0;
  }
}
