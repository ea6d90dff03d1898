// The one-dimensional Winograd transforms that the 5x5x5 convolutions nest over three axes.
//
// Correlating an input x of Alpha = M + R - 1 values with R taps g gives M outputs (Lavin & Gray 2016, "Fast
// Algorithms for Convolutional Neural Networks"):
//
//     y = A^T [ (G g) * (B^T x) ]          (* is element by element)
//
// which takes Alpha products where the plain sum takes M * R. It is Toom and Cook's product of polynomials, read
// backwards: the product of a polynomial u of M coefficients and g of R coefficients has Alpha coefficients, and is
// known from its values at Alpha points,
//
//     u(q) g(q)  at the finite points q, and the product of the leading coefficients "at infinity".
//
// With E_u and E_g the matrices of evaluation (row q: 1, q, q^2, ...; the row of infinity: 0, ..., 0, 1) and L the
// interpolation, product = L [(E_g g) * (E_u u)]. Correlation with g is the transpose of the product with g as a map
// of u, so y = E_u^T [(E_g g) * (L^T x)], hence A = E_u, and row q of L^T are the coefficients of
//
//     F(t) / (t - q) / w(q),   F(t) = product of (t - q) over the finite points,   w(q) = product of (q - others),
//
// with F(t) itself as the row of infinity. The factor 1 / w(q) moves from L to G, as G is applied to the weights only.
//
// The points are 0, infinity and pairs +p, -p, so each pair shares its even and odd parts, in all three transforms:
// with S(t) = product of (t^2 - p^2) over the pairs, F(t) = t S(t), F(t) / (t -+ p) = (t^2 +- p t) S(t) / (t^2 - p^2).
//
// Alpha 8 is F(4, 5) with 0, +-1, +-2, +-1/2, infinity; Alpha 6 is F(2, 5) with 0, +-0.7, +-1.4, infinity, whose
// rounding errors are about a third of those with +-1, +-2.
// The order of the Alpha values is 0, +p0, -p0, +p1, -p1, ..., infinity.
#pragma once

#include "vec.h"

namespace vnet {

constexpr int kTaps = 5;    // kernel edge
constexpr int kMargin = 2;  // zeros around the volume

template <int Alpha>
struct WinogradPoints;
template <>
struct WinogradPoints<8> {
  static constexpr int pairs = 3;
  static constexpr double point[pairs] = {1.0, 2.0, 0.5};
};
template <>
struct WinogradPoints<6> {
  static constexpr int pairs = 2;
  static constexpr double point[pairs] = {0.7, 1.4};
};

// The coefficients that the transforms need, computed by the compiler.
template <int Alpha>
struct WinogradCoefficients {
  using Points = WinogradPoints<Alpha>;
  static constexpr int pairs = Points::pairs;
  double all[pairs + 1] = {};          // S(t), coefficient of t^(2k)
  double without[pairs][pairs] = {};   // S(t) / (t^2 - p^2), coefficient of t^(2k), of each pair p
  double zero_weight = 0;              // 1 / w(0)
  double pair_weight[pairs] = {};      // 1 / w(p) = 1 / w(-p)
  double power[pairs][kTaps] = {};     // p^k

  constexpr WinogradCoefficients() {
    for (int skipped = -1; skipped < pairs; ++skipped) {
      double product[pairs + 1] = {1.0};
      int degree = 0;
      for (int j = 0; j < pairs; ++j) {
        if (j == skipped) continue;
        double square = Points::point[j] * Points::point[j];
        for (int k = ++degree; k > 0; --k) product[k] = product[k - 1] - square * product[k];
        product[0] *= -square;
      }
      if (skipped < 0) {
        for (int k = 0; k <= pairs; ++k) all[k] = product[k];
      } else {
        for (int k = 0; k < pairs; ++k) without[skipped][k] = product[k];
      }
    }
    zero_weight = 1 / all[0];
    for (int s = 0; s < pairs; ++s) {
      double p = Points::point[s], weight = 2 * p * p;  // (p - 0) (p - (-p))
      for (int j = 0; j < pairs; ++j) {
        if (j != s) weight *= p * p - Points::point[j] * Points::point[j];
      }
      pair_weight[s] = 1 / weight;
      power[s][0] = 1;
      for (int k = 1; k < kTaps; ++k) power[s][k] = power[s][k - 1] * p;
    }
  }
};

template <int Alpha>
struct WinogradTable {
  static constexpr WinogradCoefficients<Alpha> value{};
};

VNET_INLINE f16 constant(double x) { return set1(static_cast<float>(x)); }

// y[Alpha] = B^T x[Alpha]. x and y may be the same array.
template <int Alpha>
VNET_INLINE void transform_input(const f16* x, f16* y) {
  constexpr auto& table = WinogradTable<Alpha>::value;
  constexpr int pairs = WinogradPoints<Alpha>::pairs;
  f16 result[Alpha];
  f16 at_zero = x[2 * pairs], at_infinity = x[2 * pairs + 1];
#pragma GCC unroll 8
  for (int k = 0; k < pairs; ++k) {
    at_zero = fma(constant(table.all[k]), x[2 * k], at_zero);
    at_infinity = fma(constant(table.all[k]), x[2 * k + 1], at_infinity);
  }
  result[0] = at_zero;
  result[Alpha - 1] = at_infinity;
#pragma GCC unroll 8
  for (int s = 0; s < pairs; ++s) {
    f16 even = x[2 * pairs], odd = x[2 * pairs - 1];
#pragma GCC unroll 8
    for (int k = 0; k < pairs - 1; ++k) {
      even = fma(constant(table.without[s][k]), x[2 * k + 2], even);
      odd = fma(constant(table.without[s][k]), x[2 * k + 1], odd);
    }
    f16 point = constant(WinogradPoints<Alpha>::point[s]);
    result[1 + 2 * s] = fma(point, odd, even);
    result[2 + 2 * s] = fnma(point, odd, even);
  }
#pragma GCC unroll 8
  for (int k = 0; k < Alpha; ++k) y[k] = result[k];
}

// y[M] = A^T x[Alpha]. M is 4 or 2 for the convolution and its data gradient, 5 for the weight gradient.
template <int Alpha, int M>
VNET_INLINE void transform_output(const f16* x, f16* y) {
  constexpr auto& table = WinogradTable<Alpha>::value;
  constexpr int pairs = WinogradPoints<Alpha>::pairs;
  f16 even[pairs], odd[pairs];
#pragma GCC unroll 8
  for (int j = 0; j < pairs; ++j) {
    even[j] = x[1 + 2 * j] + x[2 + 2 * j];
    odd[j] = x[1 + 2 * j] - x[2 + 2 * j];
  }
#pragma GCC unroll 8
  for (int k = 0; k < M; ++k) {
    const f16* part = k % 2 ? odd : even;
    bool edge = k == 0 || k == M - 1;  // where the points 0 and infinity contribute
    f16 total = k == 0 ? x[0] : k == M - 1 ? x[Alpha - 1] : constant(table.power[0][k]) * part[0];
#pragma GCC unroll 8
    for (int j = 0; j < pairs; ++j) {
      if (j == 0 && !edge) continue;
      total = fma(constant(table.power[j][k]), part[j], total);
    }
    y[k] = total;
  }
}

// y[Alpha] = G x[R]. R is 5 for weights; the weight gradient takes a tile of 4 or 2 output gradients as its kernel.
template <int Alpha, int R>
VNET_INLINE void transform_kernel(const f16* x, f16* y) {
  constexpr auto& table = WinogradTable<Alpha>::value;
  y[0] = constant(table.zero_weight) * x[0];
  y[Alpha - 1] = x[R - 1];
#pragma GCC unroll 8
  for (int s = 0; s < WinogradPoints<Alpha>::pairs; ++s) {
    double weight = table.pair_weight[s];
    f16 even = constant(weight) * x[0], odd = constant(weight * table.power[s][1]) * x[1];
#pragma GCC unroll 8
    for (int k = 2; k < R; ++k) {
      f16 factor = constant(weight * table.power[s][k]);
      if (k % 2) {
        odd = fma(factor, x[k], odd);
      } else {
        even = fma(factor, x[k], even);
      }
    }
    y[1 + 2 * s] = even + odd;
    y[2 + 2 * s] = even - odd;
  }
}

}  // namespace vnet
