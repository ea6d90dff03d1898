// Scratch memory of the kernels: a stack that lives as long as the process.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vnet {

// What is taken within a scope is given back at its end, and the next kernel gets the same memory: the stack becomes as
// large as the hungriest operator needs it. Kernels are entered one after the other (entry.h).
class ScratchScope {
 public:
  ScratchScope();
  ~ScratchScope();
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

 private:
  int chunk_;
  size_t used_, taken_;
};

// Memory with arbitrary contents, 64-byte aligned, until the innermost scope that is open now ends. Throws
// std::bad_alloc where there is none.
void* scratch_bytes(size_t bytes);

template <class T = float>
T* scratch(int64_t count) {
  constexpr int64_t most = INT64_MAX / static_cast<int64_t>(sizeof(T));
  // A count that is negative or too large asks for more than there is.
  return static_cast<T*>(scratch_bytes(static_cast<size_t>(count < 0 || count > most ? most : count) * sizeof(T)));
}

// Bytes that are kept now.
int64_t scratch_kept();

}  // namespace vnet
