// What MindSpore's ahead-of-time custom operators look like, and the guard each entry point starts with.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>

#include "kernels.h"
#include "profile.h"
#include "threads.h"

namespace vnet {

// Arguments of a call: inputs first, then outputs, each with its shape and type.
struct Call {
  int count;
  void** data;
  int* ranks;
  int64_t** shapes;
  const char** types;

  template <class T>
  T* get(int i) const {
    return static_cast<T*>(data[i]);
  }
  int64_t dim(int i, int axis) const { return shapes[i][axis]; }
  int64_t size(int i) const {
    int64_t product = 1;
    for (int axis = 0; axis < ranks[i]; ++axis) product *= shapes[i][axis];
    return product;
  }
  bool is_bf16(int i) const { return std::strcmp(types[i], "bfloat16") == 0; }
};

// MindSpore may start operators of one graph at the same time; they share threads and scratch memory, so one runs
// after the other.
inline std::mutex& entry_mutex() {
  static std::mutex mutex;
  return mutex;
}

inline Category category_of(const char* name) {
  if (std::strncmp(name, "Adam", 4) == 0 || std::strncmp(name, "Squared", 7) == 0) return Category::optimizer;
  if (std::strncmp(name, "Conv", 4) == 0 || std::strncmp(name, "Deconv", 6) == 0) return Category::convolution;
  return Category::other;
}

// Runs body(call); an exception becomes the error code that MindSpore reports, with its text on stderr.
template <class Body>
int enter(const char* name, int count, void** data, int* ranks, int64_t** shapes, const char** types, Body body) {
  std::lock_guard<std::mutex> guard(entry_mutex());
  Timer timer(category_of(name));
  try {
    body(Call{count, data, ranks, shapes, types});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "CPU kernel %s: %s\n", name, error.what());
    return 1;
  }
}

}  // namespace vnet

// VNET_ENTRY(Name) { ... uses `call` ... }
#define VNET_ENTRY(name)                                                                                       \
  static void name##Body(const vnet::Call& call);                                                              \
  extern "C" int name(int count, void** data, int* ranks, int64_t** shapes, const char** types, void*, void*) { \
    return vnet::enter(#name, count, data, ranks, shapes, types, name##Body);                                   \
  }                                                                                                             \
  static void name##Body(const vnet::Call& call)
