// Finish (kernels.h) and its derivatives on sixteen values, for the passes over whole volumes.
//
//   z = scale y + shift,  s = act(z) + residual,  v = act2(s);  with g = dv:
//   ds = g act2'(s),  dz = ds act'(z),  dslope = Σ ds min(z, 0),  dslope2 = Σ g min(s, 0)
//
// ELU(x) is x or exp(x) - 1, its derivative 1 or exp(x): one exponential serves both.
#pragma once

#include <type_traits>

#include "kernels.h"
#include "vec.h"

namespace vnet {

// What the inner loops are compiled for. No activation is a PReLU of slope 1: it costs two instructions in loops that
// wait for memory, and saves half of the variants.
enum class Curve { prelu, elu };

inline Curve curve_of(Act act) { return act == Act::elu ? Curve::elu : Curve::prelu; }

template <Curve curve>
VNET_INLINE f16 bend(f16 x, f16 slope) {
  return where_positive(x, x, curve == Curve::elu ? exp(x) - set1(1.0f) : slope * x);
}

struct Bent {
  f16 value, slope;
};

// Value and derivative.
template <Curve curve>
VNET_INLINE Bent bend_with_slope(f16 x, f16 slope) {
  f16 one = set1(1.0f);
  if (curve == Curve::elu) {
    f16 power = exp(x);
    return {where_positive(x, x, power - one), where_positive(x, one, power)};
  }
  return {where_positive(x, x, slope * x), where_positive(x, one, slope)};
}

// A NaN stays one.
VNET_INLINE f16 negative_part(f16 x) { return where_positive(x, zero(), x); }

// The parameters for sixteen lanes: sixteen channels of a blocked volume, or one channel of a plain one.
struct Coefficients {
  f16 scale, shift, slope, slope2;
};

template <class T>
VNET_INLINE Coefficients block_coefficients(const Finish<T>& finish, int64_t channel) {
  auto values = [&](const float* p, float otherwise) { return p ? load(p + channel) : set1(otherwise); };
  return {values(finish.scale, 1), values(finish.shift, 0),
          values(finish.act == Act::prelu ? finish.slope : nullptr, 1),
          values(finish.act2 == Act::prelu ? finish.slope2 : nullptr, 1)};
}

VNET_INLINE Coefficients channel_coefficients(const Finish<float>& finish, int64_t channel) {
  auto value = [&](const float* p, float otherwise) { return set1(p ? p[channel] : otherwise); };
  return {value(finish.scale, 1), value(finish.shift, 0),
          value(finish.act == Act::prelu ? finish.slope : nullptr, 1),
          value(finish.act2 == Act::prelu ? finish.slope2 : nullptr, 1)};
}

template <Curve curve, Curve curve2>
VNET_INLINE f16 finished(const Coefficients& k, f16 y, f16 residual) {
  return bend<curve2>(bend<curve>(fma(k.scale, y, k.shift), k.slope) + residual, k.slope2);
}

struct Gradient {
  f16 z, s, ds, dz;
};

template <Curve curve, Curve curve2>
VNET_INLINE Gradient finish_gradient(const Coefficients& k, f16 y, f16 residual, f16 dout) {
  f16 z = fma(k.scale, y, k.shift);
  Bent first = bend_with_slope<curve>(z, k.slope);
  f16 s = first.value + residual;
  f16 ds = dout * bend_with_slope<curve2>(s, k.slope2).slope;
  return {z, s, ds, ds * first.slope};
}

// Calls body with the two curves as types, so that it can be compiled for each pair:
// body(a, b), whose types hold them as ::value.
template <class Body>
void with_curves(Act act, Act act2, Body body) {
  using Prelu = std::integral_constant<Curve, Curve::prelu>;
  using Elu = std::integral_constant<Curve, Curve::elu>;
  if (curve_of(act) == Curve::elu) {
    if (curve_of(act2) == Curve::elu) return body(Elu(), Elu());
    return body(Elu(), Prelu());
  }
  if (curve_of(act2) == Curve::elu) return body(Prelu(), Elu());
  body(Prelu(), Prelu());
}

}  // namespace vnet
