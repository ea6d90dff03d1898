// A call on a batch as one call a sample, for units whose normalisation takes each sample by itself.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "entry.h"

namespace vnet {

// Own copies of a call's arguments, to be pointed elsewhere.
class SampleCall {
 public:
  static constexpr int kMost = 32;

  explicit SampleCall(const Call& whole) : whole_(whole), call_{whole.count, data_, ranks_, shapes_, types_} {
    for (int i = 0; i < whole.count; ++i) {
      data_[i] = whole.data[i];
      ranks_[i] = whole.ranks[i];
      types_[i] = whole.types[i];
      std::copy_n(whole.shapes[i], ranks_[i], sizes_[i].begin());
      shapes_[i] = sizes_[i].data();
    }
  }
  SampleCall(const SampleCall&) = delete;
  SampleCall& operator=(const SampleCall&) = delete;

  // Points argument i, of samples along its first axis, to the part of a sample. One of a single value is a part that
  // the unit lacks, and stays.
  void choose(int i, int64_t sample) {
    if (whole_.size(i) == 1) return;
    int64_t bytes = whole_.size(i) / whole_.dim(i, 0) * (whole_.is_bf16(i) ? 2 : 4);
    data_[i] = static_cast<char*>(whole_.data[i]) + sample * bytes;
    sizes_[i][0] = 1;
  }
  // Puts an argument behind the others that has the memory, shape and type of argument i.
  void append_like(int i) {
    int last = call_.count++;
    data_[last] = data_[i];
    ranks_[last] = ranks_[i];
    types_[last] = types_[i];
    sizes_[last] = sizes_[i];
    shapes_[last] = sizes_[last].data();
  }
  void point(int i, void* data) { data_[i] = data; }
  const Call& call() const { return call_; }

 private:
  const Call& whole_;
  void* data_[kMost];
  int ranks_[kMost];
  int64_t* shapes_[kMost];
  const char* types_[kMost];
  std::array<int64_t, 8> sizes_[kMost];
  Call call_;
};

}  // namespace vnet
