// What MindSpore's ahead-of-time custom operators look like, and the guard each entry point starts with.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>

#include "kernels.h"
#include "profile.h"
#include "scratch.h"
#include "threads.h"

// In library.cc: keeps the words of a failure, for VnetLastError.
extern "C" void VnetKeepError(const char* text);

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
  for (const char* start : {"Adam", "Average", "Squared"})
    if (std::strncmp(name, start, std::strlen(start)) == 0) return Category::optimizer;
  if (std::strncmp(name, "Conv", 4) == 0 || std::strncmp(name, "Deconv", 6) == 0) return Category::convolution;
  return Category::other;
}

// What an entry returns when it failed; VnetLastError() has the words.
constexpr int kFailed = 1;

// Runs body(call). MindSpore puts the words of an exception into its own, but knows nothing more of an error code; so
// it gets the exception. It always hands over its attributes as the last argument, whereas a call through ctypes has
// none there: that must not see an exception, and asks for the words of a failure.
template <class Body>
int enter(const char* name, int count, void** data, int* ranks, int64_t** shapes, const char** types,
          const void* attributes, Body body) {
  std::lock_guard<std::mutex> guard(entry_mutex());
  ScratchScope scope;
  Timer timer(category_of(name));
  char text[1024];  // no memory is asked for: there may be none
  try {
    body(Call{count, data, ranks, shapes, types});
    return 0;
  } catch (const std::bad_alloc& error) {  // of scratch memory it says how much was wanted (scratch.cc)
    std::snprintf(text, sizeof text,
                  "CPU kernel %s: not enough memory for the scratch of its work: %s; a smaller batch_size or VolSize "
                  "needs less",
                  name, error.what());
  } catch (const std::exception& error) {
    std::snprintf(text, sizeof text, "CPU kernel %s: %s", name, error.what());
  }
  VnetKeepError(text);
  if (attributes != nullptr) throw std::runtime_error(text);
  return kFailed;
}

}  // namespace vnet

// VNET_ENTRY(Name) { ... uses `call` ... }
#define VNET_ENTRY(name)                                                                                      \
  static void name##Body(const vnet::Call& call);                                                             \
  extern "C" int name(int count, void** data, int* ranks, int64_t** shapes, const char** types, void* stream, \
                      void* attributes) {                                                                     \
    static_cast<void>(stream);                                                                                \
    return vnet::enter(#name, count, data, ranks, shapes, types, attributes, name##Body);                     \
  }                                                                                                           \
  static void name##Body(const vnet::Call& call)
