// The voxel sums that Dice loss and cross-entropy of two classes are made of, and their gradient, in one pass each.
//
// With d = logit1 - logit0 and label g: p = sigmoid(d) is the softmax probability of class 1 and softplus(d) - g d the
// cross-entropy. A lone logit is d itself. All comes from one exponential e = exp(-|d|), which cannot overflow:
//   sigmoid(|d|) = 1 / (1 + e), sigmoid(-|d|) = e / (1 + e), softplus(d) = max(d, 0) + log(1 + e).
#include <cstring>
#include <stdexcept>

#include "entry.h"
#include "labels.h"
#include "rows.h"

namespace vnet {

namespace {

// log(1 + e) for e in [0, 1] = 2 artanh(t), t = e / (2 + e) <= 1/3: t + t^3/3 + t^5/5 + ..., to 1e-8.
VNET_INLINE f16 log_one_plus(f16 e) {
  f16 t = e / (set1(2.0f) + e), square = t * t;
  f16 series = set1(1.0f / 15);
  for (int order = 13; order >= 1; order -= 2) series = fma(series, square, set1(1.0f / order));
  return set1(2.0f) * t * series;
}

// p = sigmoid(d) and q = 1 - p, each to full relative accuracy.
struct Probability {
  f16 p, q, power;
};

VNET_INLINE Probability probability(f16 d) {
  f16 power = exp(where_positive(d, -d, d));
  f16 large = set1(1.0f) / (set1(1.0f) + power), small = power * large;
  return {where_positive(d, large, small), where_positive(d, small, large), power};
}

constexpr int kSums = 4;

struct Sums {
  f16 overlap = zero(), probabilities = zero(), labels = zero(), cross_entropy = zero();

  VNET_INLINE void add(f16 d, f16 g) {
    Probability at = probability(d);
    overlap = fma(at.p, g, overlap);
    probabilities = fma(at.p, at.p, probabilities);
    labels = fma(g, g, labels);
    cross_entropy = cross_entropy + (where_positive(d, d, zero()) - g * d + log_one_plus(at.power));
  }

  VNET_INLINE void add_to(double* totals) const {
    totals[0] += wide_sum(overlap);
    totals[1] += wide_sum(probabilities);
    totals[2] += wide_sum(labels);
    totals[3] += wide_sum(cross_entropy);
  }
};

// d of a vector of voxels; logit0 is null for a lone logit.
VNET_INLINE f16 difference(const float* logit0, const float* logit1, int64_t i, int64_t count) {
  f16 d = load_part(logit1 + i, count);
  return logit0 ? d - load_part(logit0 + i, count) : d;
}

// The sums of the voxels of a piece. Of the last, filled-up vector only the lanes that hold voxels are added: empty
// ones would add log 2 each.
template <class Label>
void sum_piece(const float* logit0, const float* logit1, const Label* label, int64_t count, double* totals) {
  int64_t i = 0;
  for (int64_t start = 0; start + kLanes <= count; start = i) {
    int64_t stop = std::min(count, start + kRun * kLanes);
    Sums sums;
    for (i = start; i + kLanes <= stop; i += kLanes)
      sums.add(difference(logit0, logit1, i, kLanes), load_label(label + i));
    sums.add_to(totals);
  }
  if (i == count) return;
  Label labels[kLanes] = {};
  for (int64_t lane = 0; lane < count - i; ++lane) labels[lane] = label[i + lane];
  Sums sums;
  sums.add(difference(logit0, logit1, i, count - i), load_label(labels));
  float lanes[kSums][kLanes];
  store(lanes[0], sums.overlap);
  store(lanes[1], sums.probabilities);
  store(lanes[2], sums.labels);
  store(lanes[3], sums.cross_entropy);
  for (int sum = 0; sum < kSums; ++sum)
    for (int64_t lane = 0; lane < count - i; ++lane) totals[sum] += lanes[sum][lane];
}

Volume check_two_classes(const Call& call, int logits, int label) {
  if (call.ranks[logits] < 2 || call.dim(logits, 1) < 1 || call.dim(logits, 1) > 2)
    throw std::invalid_argument("logits have to be (N, 2, ...), or (N, 1, ...)");
  return check_volume(call, logits, label);
}

}  // namespace

}  // namespace vnet

// Inputs: logits (N, 2, ...) or (N, 1, ...), label (N, ...). Output (N, 4): of each sample Σ p g, Σ p², Σ g² and the
// voxels' summed cross-entropy.
VNET_ENTRY(SegmentationSums) {
  using namespace vnet;
  Volume volume = check_two_classes(call, 0, 1);
  const float* logits = call.get<float>(0);
  float* out = call.get<float>(2);
  int64_t values = volume.samples * kSums;
  double* shares = scratch<double>(threads() * values);
  std::fill_n(shares, threads() * values, 0.0);
  with_label(call, 1, [&](auto label) {
    share_rows(volume.samples, volume.voxels, [&](int64_t sample, int64_t begin, int64_t end, int thread) {
      const float* logit1 = logits + ((sample + 1) * volume.classes - 1) * volume.voxels + begin;
      sum_piece(volume.classes == 2 ? logit1 - volume.voxels : nullptr, logit1, label + sample * volume.voxels + begin,
                end - begin, shares + thread * values + sample * kSums);
    });
  });
  for (int64_t i = 0; i < values; ++i) {
    double total = 0;
    for (int thread = 0; thread < threads(); ++thread) total += shares[thread * values + i];
    out[i] = static_cast<float>(total);
  }
}

// Inputs: gradient of the sums (N, 4), logits, label. Output: gradient of the logits, with dp/dd = p q, q = 1 - p:
//   dlogit1 = -dlogit0 = (s0 g + 2 s1 p) p q + s3 (p - g)
VNET_ENTRY(SegmentationSumsGrad) {
  using namespace vnet;
  Volume volume = check_two_classes(call, 1, 2);
  const float *dsums = call.get<float>(0), *logits = call.get<float>(1);
  float* dlogits = call.get<float>(3);
  if (call.size(0) != volume.samples * kSums) throw std::invalid_argument("the sums' gradient has to be (N, 4)");
  with_label(call, 2, [&](auto label) {
    using Label = std::remove_const_t<std::remove_pointer_t<decltype(label)>>;
    share_rows(volume.samples, volume.voxels, [&](int64_t sample, int64_t begin, int64_t end, int) {
      const float* ds = dsums + sample * kSums;
      f16 of_overlap = set1(ds[0]), of_probabilities = set1(2 * ds[1]), of_entropy = set1(ds[3]);
      bool two = volume.classes == 2;
      int64_t second = ((sample + 1) * volume.classes - 1) * volume.voxels, first = second - volume.voxels;
      const Label* labels = label + sample * volume.voxels;
      for (int64_t i = begin; i < end; i += kLanes) {
        int64_t count = std::min<int64_t>(kLanes, end - i);
        Label part[kLanes] = {};
        std::memcpy(part, labels + i, static_cast<size_t>(count) * sizeof(Label));
        f16 g = load_label(part);
        Probability at = probability(difference(two ? logits + first : nullptr, logits + second, i, count));
        // p - g without cancellation where g is 1 and p almost.
        f16 excess = (set1(1.0f) - g) * at.p - g * at.q;
        f16 dd = fma(fma(of_probabilities, at.p, of_overlap * g), at.p * at.q, of_entropy * excess);
        store_part(dlogits + second + i, dd, count);
        if (two) store_part(dlogits + first + i, -dd, count);
      }
    });
  });
}
