// Blocked pictures (N, C/16, 1, H, W, 16) made smaller by max-pooling and larger by interpolation, and gates: one factor
// a pixel for all channels.
#include <cmath>
#include <cstring>

#include "entry.h"
#include "rows.h"

namespace vnet {

namespace {

Shape shape_of(const Call& call, int i) {
  const int64_t* s = call.shapes[i];
  return {s[0], s[1] * kLanes, s[2], s[3], s[4]};
}

struct Window {
  int64_t size, stride, pad;
};

Window read_window(const Call& call) {
  const int64_t* v = call.get<int64_t>(0);
  return {v[0], v[1], v[2]};
}

// Calls at(offset) for the pixels of a window that lie in the plane, row by row.
template <class At>
VNET_INLINE void in_window(Window window, Shape in, int64_t row, int64_t column, At at) {
  int64_t top = row * window.stride - window.pad, left = column * window.stride - window.pad;
  int64_t first = std::max<int64_t>(left, 0), end = std::min(left + window.size, in.w);
  for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + window.size, in.h); ++y) {
    for (int64_t x = first; x < end; ++x) at((y * in.w + x) * kLanes);
  }
}

// The interpolation of one axis by factor 2: 3/4 of the nearer neighbour, 1/4 of the farther, the border repeated.
constexpr float kNear = 0.75f, kFar = 0.25f;

// out = 3/4 near + 1/4 far, stretched along the row.
void stretch_row(const float* near, const float* far, int64_t width, float* out) {
  f16 three = set1(kNear), one = set1(kFar);
  auto blended = [&](int64_t x) { return fma(three, load(near + x * kLanes), one * load(far + x * kLanes)); };
  f16 current = blended(0), before = current;
  for (int64_t x = 0; x < width; ++x) {
    f16 after = x + 1 < width ? blended(x + 1) : current;
    store(out + 2 * x * kLanes, fma(three, current, one * before));
    store(out + (2 * x + 1) * kLanes, fma(three, current, one * after));
    before = current;
    current = after;
  }
}

}  // namespace

}  // namespace vnet

// window [size, stride, pad], x -> the largest value of each window.
VNET_ENTRY(PicturePool) {
  using namespace vnet;
  Timer timer(Category::pointwise);
  Window window = read_window(call);
  Shape in = shape_of(call, 1), out = shape_of(call, 2);
  const float* x = call.get<float>(1);
  float* y = call.get<float>(2);
  share(out.n * out.blocks() * out.h, [&](int64_t first, int64_t last, int) {
    for (int64_t line = first; line < last; ++line) {
      const float* plane = x + line / out.h * in.voxels() * kLanes;
      float* to = y + line * out.w * kLanes;
      for (int64_t column = 0; column < out.w; ++column) {
        f16 most = set1(-INFINITY);
        in_window(window, in, line % out.h, column,
                  [&](int64_t offset) { most = maximum(most, load(plane + offset)); });
        store(to + column * kLanes, most);
      }
    }
  });
}

// window, dy, x, y, dskip (or one value) -> dx: each dy goes to the first pixel that has the largest value; dskip, the
// gradient of what else x went into, is added.
VNET_ENTRY(PicturePoolBackward) {
  using namespace vnet;
  Timer timer(Category::pointwise);
  Window window = read_window(call);
  Shape in = shape_of(call, 2), out = shape_of(call, 3);
  const float *dy = call.get<float>(1), *x = call.get<float>(2), *y = call.get<float>(3);
  const float* dskip = call.ranks[4] > 1 ? call.get<float>(4) : nullptr;
  float* dx = call.get<float>(5);
  // Bands of rows, so that a few planes keep all threads busy; where windows overlap, a plane at a time.
  int64_t bands = window.size == window.stride && window.pad == 0 && in.h == out.h * window.size ? out.h : 1;
  share(in.n * in.blocks() * bands, [&](int64_t first, int64_t last, int) {
    for (int64_t item = first; item < last; ++item) {
      int64_t plane = item / bands, band = item % bands, count = in.voxels() / bands * kLanes;
      int64_t start = plane * in.voxels() * kLanes;
      if (dskip) {
        std::memcpy(dx + start + band * count, dskip + start + band * count, count * sizeof(float));
      } else {
        std::memset(dx + start + band * count, 0, count * sizeof(float));
      }
      for (int64_t row = band * out.h / bands; row < (band + 1) * out.h / bands; ++row) {
        for (int64_t column = 0; column < out.w; ++column) {
          int64_t place = ((plane * out.h + row) * out.w + column) * kLanes;
          f16 most = load(y + place), left = load(dy + place);
          in_window(window, in, row, column, [&](int64_t offset) {
            f16 below = most - load(x + start + offset);  // NaN, of infinities too, counts as the largest
            float* to = dx + start + offset;
            store(to, load(to) + where_positive(below, zero(), left));
            left = where_positive(below, left, zero());
          });
        }
      }
    }
  });
}

// x -> twice its size, bilinear with half-pixel centres.
VNET_ENTRY(PictureStretch) {
  using namespace vnet;
  Timer timer(Category::pointwise);
  Shape in = shape_of(call, 0);
  const float* x = call.get<float>(0);
  float* y = call.get<float>(1);
  share(in.n * in.blocks() * 2 * in.h, [&](int64_t first, int64_t last, int) {
    for (int64_t line = first; line < last; ++line) {
      int64_t plane = line / (2 * in.h), row = line % (2 * in.h), near = row / 2;
      int64_t far = std::clamp<int64_t>(near + (row % 2 ? 1 : -1), 0, in.h - 1);
      const float* from = x + plane * in.voxels() * kLanes;
      stretch_row(from + near * in.w * kLanes, from + far * in.w * kLanes, in.w, y + line * 2 * in.w * kLanes);
    }
  });
}

// dy -> dx, its adjoint.
VNET_ENTRY(PictureStretchBackward) {
  using namespace vnet;
  Timer timer(Category::pointwise);
  Shape in = shape_of(call, 1);
  const float* dy = call.get<float>(0);
  float* dx = call.get<float>(2);
  const float weights[4] = {kFar, kNear, kNear, kFar};
  share(in.n * in.blocks() * in.h, [&](int64_t first, int64_t last, int) {
    for (int64_t line = first; line < last; ++line) {
      const float* from = dy + line / in.h * 4 * in.voxels() * kLanes;
      int64_t row = line % in.h;
      for (int64_t column = 0; column < in.w; ++column) {
        f16 total = zero();
        for (int64_t i = 0; i < 4; ++i) {
          int64_t y = std::clamp<int64_t>(2 * row - 1 + i, 0, 2 * in.h - 1);
          f16 line_total = zero();
          for (int64_t j = 0; j < 4; ++j) {
            int64_t x = std::clamp<int64_t>(2 * column - 1 + j, 0, 2 * in.w - 1);
            line_total = fma(set1(weights[j]), load(from + (y * 2 * in.w + x) * kLanes), line_total);
          }
          total = fma(set1(weights[i]), line_total, total);
        }
        store(dx + (line * in.w + column) * kLanes, total);
      }
    }
  });
}

// x, gate (N, 1, H, W) plain -> x * gate.
VNET_ENTRY(PictureGate) {
  using namespace vnet;
  Timer timer(Category::pointwise);
  Shape in = shape_of(call, 0);
  const float *x = call.get<float>(0), *gate = call.get<float>(1);
  float* y = call.get<float>(2);
  share_rows(in.n * in.blocks(), in.voxels(), [&](int64_t row, int64_t begin, int64_t end, int) {
    const float* factors = gate + row / in.blocks() * in.voxels();
    int64_t start = row * in.voxels() * kLanes;
    for (int64_t i = begin; i < end; ++i) {
      fetch(x + start + i * kLanes);
      store(y + start + i * kLanes, load(x + start + i * kLanes) * set1(factors[i]));
    }
  });
}

// dy, x, gate -> dx, dgate.
VNET_ENTRY(PictureGateBackward) {
  using namespace vnet;
  Timer timer(Category::pointwise);
  Shape in = shape_of(call, 1);
  const float *dy = call.get<float>(0), *x = call.get<float>(1), *gate = call.get<float>(2);
  float *dx = call.get<float>(3), *dgate = call.get<float>(4);
  share_rows(in.n, in.voxels(), [&](int64_t sample, int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      f16 factor = set1(gate[sample * in.voxels() + i]), products = zero();
      for (int64_t block = 0; block < in.blocks(); ++block) {
        int64_t place = ((sample * in.blocks() + block) * in.voxels() + i) * kLanes;
        f16 gradient = load(dy + place);
        products = fma(gradient, load(x + place), products);
        store(dx + place, gradient * factor);
      }
      dgate[sample * in.voxels() + i] = sum(products);
    }
  });
}
