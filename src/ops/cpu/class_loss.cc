// The voxel sums that the losses over any number of classes are made of, and their gradient, in one pass each.
//
// Two classes with Dice or cross-entropy alone have a faster form in segmentation_loss.cc. Of a voxel with logits z and
// label y, with m = max z and e_c = exp(z_c - m), which cannot overflow: p_c = e_c / sum e and the cross-entropy
// -log p_y = m - z_y + log sum e. The focal loss of Lin et al. 2017 is (1 - p_y)^gamma times that.
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "entry.h"
#include "labels.h"
#include "rows.h"

namespace vnet {

namespace {

constexpr int kMostClasses = 16;
constexpr float kTiny = 1.2e-38f;  // just above the smallest normal number

enum Sum { sOverlap, sSquares, sLabels, sProbabilities, sEntropy, sFocal, kSums };

// ln x of positive normal numbers, absolute error about 1e-7 below 16; NaN stays NaN, infinity becomes it.
// x = 2^k m with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh t, t = (m - 1) / (m + 1), |t| < 0.172.
VNET_INLINE f16 log(f16 x) {
  float lanes[kLanes], exponents[kLanes];
  int32_t bits[kLanes];
  store(lanes, x);
  std::memcpy(bits, lanes, sizeof bits);
  for (int lane = 0; lane < kLanes; ++lane) {
    int32_t exponent = (bits[lane] - 0x3f3504f3) >> 23;  // of sqrt(1/2)
    bits[lane] -= exponent * (1 << 23);
    exponents[lane] = static_cast<float>(exponent);
  }
  std::memcpy(lanes, bits, sizeof bits);
  f16 m = load(lanes), k = load(exponents);
  f16 t = (m - set1(1.0f)) / (m + set1(1.0f)), square = t * t;
  f16 series = set1(1.0f / 9);
  for (int order = 7; order >= 1; order -= 2) series = fma(series, square, set1(1.0f / order));
  return fma(k, set1(0.693147181f), set1(2.0f) * t * series) + (x - x);
}

// q^gamma for q in [0, 1].
VNET_INLINE f16 power(f16 q, float gamma) {
  if (gamma == 2) return q * q;
  if (gamma == 1) return q;
  return exp(set1(gamma) * log(where_positive(set1(kTiny) - q, set1(kTiny), q)));
}

// What a vector of voxels has: of each class the label (0 or 1) and the probability; of the voxel's own class the
// probability, one minus it, each to full relative accuracy, and the cross-entropy. A label that is none of the classes
// belongs to none. kClasses is 0 where their number is known at run time only.
template <int kClasses>
struct Voxels {
  static constexpr int kRoom = kClasses ? kClasses : kMostClasses;
  int classes;
  f16 z[kRoom], g[kRoom], p[kRoom], largest, own, others, entropy;

  // From the logits z.
  VNET_INLINE void compute(f16 label) {
    largest = z[0];
    for (int c = 1; c < count(); ++c) largest = where_positive(z[c] - largest, z[c], largest);
    f16 own_logit = zero();
    own = others = zero();
    for (int c = 0; c < count(); ++c) {
      f16 away = label - set1(static_cast<float>(c));
      g[c] = where_positive(away * away, zero(), set1(1.0f));
      p[c] = exp(z[c] - largest);
      own = fma(g[c], p[c], own);
      others = fma(set1(1.0f) - g[c], p[c], others);
      own_logit = fma(g[c], z[c], own_logit);
    }
    f16 total = own + others, scale = set1(1.0f) / total;
    f16 lost = (others - (total - own)) * scale;  // what rounding took: it counts where `others` is tiny
    entropy = (largest - own_logit) + (log(total) + lost);
    for (int c = 0; c < count(); ++c) p[c] = p[c] * scale;
    own = own * scale;
    others = others * scale;
  }

  VNET_INLINE int count() const { return kClasses ? kClasses : classes; }
};

// Adds the sums of a piece of a sample to totals, [classes][kSums]. `logits` and `label` begin at the piece; those of
// the next class lie `stride` further. A gamma below 0: no focal sums.
template <int kClasses, class Label>
void sum_piece(const float* logits, int64_t stride, const Label* label, int64_t count, int classes, float gamma,
               double* totals) {
  Voxels<kClasses> at;
  at.classes = classes;
  for (int64_t start = 0; start < count; start += kRun * kLanes) {
    int64_t stop = std::min(count, start + kRun * kLanes);
    f16 sums[Voxels<kClasses>::kRoom][kSums];
    for (int c = 0; c < at.count(); ++c) std::fill_n(sums[c], static_cast<int>(kSums), zero());
    for (int64_t i = start; i < stop; i += kLanes) {
      int64_t lanes = std::min<int64_t>(kLanes, stop - i);
      for (int c = 0; c < at.count(); ++c) at.z[c] = load_part(logits + c * stride + i, lanes);
      at.compute(load_label_part(label + i, lanes, -1));
      f16 focal = gamma < 0 ? zero() : power(at.others, gamma) * at.entropy;
      if (lanes < kLanes) {  // lanes without a voxel have no label, but probabilities
        float there[kLanes] = {};
        std::fill_n(there, lanes, 1.0f);
        for (int c = 0; c < at.count(); ++c) at.p[c] = at.p[c] * load(there);
      }
      for (int c = 0; c < at.count(); ++c) {
        f16 *sum = sums[c], p = at.p[c], g = at.g[c];
        sum[sOverlap] = fma(p, g, sum[sOverlap]);
        sum[sSquares] = fma(p, p, sum[sSquares]);
        sum[sLabels] = sum[sLabels] + g;
        sum[sProbabilities] = sum[sProbabilities] + p;
        sum[sEntropy] = fma(g, at.entropy, sum[sEntropy]);
        sum[sFocal] = fma(g, focal, sum[sFocal]);
      }
    }
    for (int c = 0; c < at.count(); ++c)
      for (int sum = 0; sum < kSums; ++sum) totals[c * kSums + sum] += wide_sum(sums[c][sum]);
  }
}

// The gradient of the logits from `ds`, that of the sums of the sample. With w_c = ds0 g_c + 2 ds1 p_c + ds3, the
// gradient of p_c:  dz_c = p_c (w_c - sum_j w_j p_j) + (p_c - g_c) (ds4 + ds5 focal'),
//   focal' = q^gamma + gamma p_y q^(gamma - 1) H, with q = 1 - p_y and H the cross-entropy.
// Taking w of the likeliest class from all w changes nothing, since the p add up to 1, but lets no digits cancel.
template <int kClasses, class Label>
void gradient_piece(const float* ds, const float* logits, int64_t stride, const Label* label, int64_t count,
                    int classes, float gamma, float* dlogits) {
  Voxels<kClasses> at;
  at.classes = classes;
  for (int64_t i = 0; i < count; i += kLanes) {
    int64_t lanes = std::min<int64_t>(kLanes, count - i);
    for (int c = 0; c < at.count(); ++c) at.z[c] = load_part(logits + c * stride + i, lanes);
    at.compute(load_label_part(label + i, lanes, -1));
    f16 slope = zero();
    if (gamma >= 0) {
      f16 q = at.others, near = where_positive(q - set1(kTiny), at.entropy / q, set1(1.0f));  // H / q is 1 at q = 0
      slope = power(q, gamma) * fma(set1(gamma) * at.own, near, set1(1.0f));
    }
    f16 w[Voxels<kClasses>::kRoom], most = zero(), of_entropy = zero();
    for (int c = 0; c < at.count(); ++c) {
      const float* d = ds + c * kSums;
      w[c] = fma(set1(d[sOverlap]), at.g[c], fma(set1(2 * d[sSquares]), at.p[c], set1(d[sProbabilities])));
      most = where_positive(at.largest - at.z[c], most, w[c]);
      of_entropy = fma(at.g[c], fma(set1(d[sFocal]), slope, set1(d[sEntropy])), of_entropy);
    }
    f16 mean = zero();
    for (int c = 0; c < at.count(); ++c) {
      w[c] = w[c] - most;
      mean = fma(w[c], at.p[c], mean);
    }
    for (int c = 0; c < at.count(); ++c) {
      f16 excess = (set1(1.0f) - at.g[c]) * at.p[c] - at.g[c] * at.others;
      store_part(dlogits + c * stride + i, fma(at.p[c], w[c] - mean, of_entropy * excess), lanes);
    }
  }
}

// Calls body with the number of classes as a type, for the usual ones.
template <class Body>
void with_classes(int64_t classes, Body body) {
  if (classes < 2 || classes > kMostClasses)
    throw std::invalid_argument("logits have " + std::to_string(classes) + " classes, expected 2 to " +
                                std::to_string(kMostClasses));
  if (classes == 2) return body(std::integral_constant<int, 2>());
  if (classes == 3) return body(std::integral_constant<int, 3>());
  if (classes == 4) return body(std::integral_constant<int, 4>());
  body(std::integral_constant<int, 0>());
}

}  // namespace

}  // namespace vnet

// Inputs: gamma (below 0: no focal sums), logits (N, C, X, Y, Z), label (N, X, Y, Z) of class numbers. Output (N, C, 6):
// for each sample and class, with g 1 at the voxels of the class and p its probability, Σ p g, Σ p², Σ g, Σ p, and the
// cross-entropy and the focal loss summed over the voxels of the class.
VNET_ENTRY(ClassSums) {
  using namespace vnet;
  Volume volume = check_volume(call, 1, 2);
  float gamma = call.get<float>(0)[0];
  const float* logits = call.get<float>(1);
  float* out = call.get<float>(3);
  int64_t each = volume.classes * kSums, values = volume.samples * each;
  double* shares = scratch<double>(threads() * values);
  std::fill_n(shares, threads() * values, 0.0);
  with_classes(volume.classes, [&](auto classes) {
    with_label(call, 2, [&](auto label) {
      share_rows(volume.samples, volume.voxels, [&](int64_t sample, int64_t begin, int64_t end, int thread) {
        sum_piece<decltype(classes)::value>(logits + sample * volume.classes * volume.voxels + begin, volume.voxels,
                                            label + sample * volume.voxels + begin, end - begin,
                                            static_cast<int>(volume.classes), gamma,
                                            shares + thread * values + sample * each);
      });
    });
  });
  for (int64_t i = 0; i < values; ++i) {
    double total = 0;
    for (int thread = 0; thread < threads(); ++thread) total += shares[thread * values + i];
    out[i] = static_cast<float>(total);
  }
}

// Inputs: gradient of the sums (N, C, 6), gamma, logits, label. Output: gradient of the logits.
VNET_ENTRY(ClassSumsGrad) {
  using namespace vnet;
  Volume volume = check_volume(call, 2, 3);
  const float *dsums = call.get<float>(0), *logits = call.get<float>(2);
  float gamma = call.get<float>(1)[0];
  float* dlogits = call.get<float>(4);
  int64_t each = volume.classes * kSums;
  if (call.size(0) != volume.samples * each) throw std::invalid_argument("the sums' gradient has to be (N, C, 6)");
  with_classes(volume.classes, [&](auto classes) {
    with_label(call, 3, [&](auto label) {
      share_rows(volume.samples, volume.voxels, [&](int64_t sample, int64_t begin, int64_t end, int) {
        int64_t at = sample * volume.classes * volume.voxels + begin;
        gradient_piece<decltype(classes)::value>(dsums + sample * each, logits + at, volume.voxels,
                                                 label + sample * volume.voxels + begin, end - begin,
                                                 static_cast<int>(volume.classes), gamma, dlogits + at);
      });
    });
  });
}
