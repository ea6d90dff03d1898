// Operators over all parameters at once: the squared norm of the gradients, Adam's update, and averages of weights.
//
// The tensors count as one long list of elements that is shared out evenly: a network has some large tensors and many
// tiny ones, and a parallel region for each of them would cost more than its arithmetic.
#include <cmath>
#include <stdexcept>
#include <string>

#include "entry.h"
#include "rows.h"

namespace vnet {

namespace {

// Calls piece(tensor, begin, end) for the pieces of tensors that make up the part [first, last) of their list. Pieces
// start at multiples of sixteen elements: their vectors are aligned if the tensors are.
template <class Piece>
void by_tensor(const Call& call, int first_input, int tensors, int64_t first, int64_t last, Piece piece) {
  int64_t start = 0;
  for (int tensor = 0; tensor < tensors && start < last; ++tensor) {
    int64_t size = call.size(first_input + tensor);
    int64_t begin = std::max(first - start, int64_t{0}) / kLanes * kLanes;
    int64_t end = last - start < size ? (last - start) / kLanes * kLanes : size;
    // A tensor that ends before the part starts was done by another one, tail and all.
    if (first - start < size && begin < end) piece(tensor, begin, end);
    start += size;
  }
}

int64_t total_size(const Call& call, int first_input, int tensors) {
  int64_t total = 0;
  for (int tensor = 0; tensor < tensors; ++tensor) total += call.size(first_input + tensor);
  return total;
}

// In fp32 over a run of sixteen squares a lane, then in double. A square that overflows leaves infinity, as in fp32.
double squared_norm(const float* x, int64_t count) {
  double total = 0;
  for (int64_t start = 0; start < count; start += kRun * kLanes) {
    int64_t stop = std::min(count, start + kRun * kLanes), i = start;
    f16 sums[4] = {zero(), zero(), zero(), zero()};
    for (; i + 4 * kLanes <= stop; i += 4 * kLanes) {
      for (int k = 0; k < 4; ++k) {
        fetch(x + i + k * kLanes);
        f16 value = load(x + i + k * kLanes);
        sums[k] = fma(value, value, sums[k]);
      }
    }
    for (; i < stop; i += kLanes) {
      f16 value = load_part(x + i, stop - i);
      sums[0] = fma(value, value, sums[0]);
    }
    total += wide_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  return total;
}

// Adam (Kingma & Ba 2015, algorithm 1 with the faster order of section 2), as MindSpore's nn.Adam has it.
struct Adam {
  float one_minus_beta1, one_minus_beta2, epsilon, rate, step, grad_scale;  // step: rate with the bias corrections

  void update(float* weight, float* first, float* second, const float* gradient, int64_t count, float l2,
              float decoupled) const {
    f16 keep = set1(static_cast<float>(1.0 - static_cast<double>(rate) * decoupled));
    f16 scale = set1(grad_scale), decay = set1(l2);
    for (int64_t i = 0; i < count; i += kLanes) {
      int64_t lanes = count - i;
      fetch(weight + i), fetch(first + i), fetch(second + i), fetch(gradient + i);
      f16 w = load_part(weight + i, lanes) * keep;
      f16 g = fma(decay, w, scale * load_part(gradient + i, lanes));
      f16 m = load_part(first + i, lanes), v = load_part(second + i, lanes);
      m = fma(set1(one_minus_beta1), g - m, m);
      v = fma(set1(one_minus_beta2), fma(g, g, -v), v);
      w = w - set1(step) * m / (sqrt(v) + set1(epsilon));
      store_part(weight + i, w, lanes);
      store_part(first + i, m, lanes);
      store_part(second + i, v, lanes);
    }
  }
};

void average(float* mean, const float* value, int64_t count, float share_of_value) {
  for (int64_t i = 0; i < count; i += kLanes) {
    int64_t lanes = count - i;
    fetch(mean + i), fetch(value + i);
    f16 m = load_part(mean + i, lanes);
    store_part(mean + i, fma(set1(share_of_value), load_part(value + i, lanes) - m, m), lanes);
  }
}

enum AdamInput { aConfig, aRate, aGradScale, aFinite, aPower1, aPower2, aTensors };
constexpr int kConfigValues = 3;  // beta1, beta2, epsilon; then l2 [P] and decoupled decay [P]

void check_sizes(const Call& call, int tensors) {
  if (tensors < 1 || call.count != aTensors + 4 * tensors + 1)
    throw std::invalid_argument("found " + std::to_string(call.count) + " tensors, expected 6 + 4 P inputs, 1 output");
  if (call.size(aConfig) != kConfigValues + 2 * tensors)
    throw std::invalid_argument("config has " + std::to_string(call.size(aConfig)) + " values, expected 3 + 2 P for " +
                                std::to_string(tensors) + " parameters");
  for (int tensor = 0; tensor < tensors; ++tensor) {
    for (int kind = 1; kind < 4; ++kind) {
      if (call.size(aTensors + kind * tensors + tensor) != call.size(aTensors + tensor))
        throw std::invalid_argument("parameter " + std::to_string(tensor) +
                                    " has another size than its moments or its gradient");
    }
  }
}

}  // namespace

}  // namespace vnet

// Inputs: gradients, fp32. Output: the sum of their squares; not finite if one of them isn't.
VNET_ENTRY(SquaredNorm) {
  using namespace vnet;
  int tensors = call.count - 1;
  double* shares = scratch<double>(threads());
  std::fill_n(shares, threads(), 0.0);
  share(total_size(call, 0, tensors), [&](int64_t first, int64_t last, int thread) {
    double total = 0;
    by_tensor(call, 0, tensors, first, last, [&](int tensor, int64_t begin, int64_t end) {
      total += squared_norm(call.get<float>(tensor) + begin, end - begin);
    });
    shares[thread] = total;
  });
  double total = 0;
  for (int thread = 0; thread < threads(); ++thread) total += shares[thread];
  call.get<float>(tensors)[0] = static_cast<float>(total);
}

// Inputs: config (beta1, beta2, epsilon, L2 decay of each parameter, decoupled decay of each parameter); scalars rate,
// grad_scale (the gradients' factor), finite (0: nothing changes), beta1_power, beta2_power; then the parameters, first
// moments, second moments and gradients, P of each, all fp32. The powers, parameters and moments change in place:
//   powers *= betas;  w *= 1 - rate decoupled;  g = grad_scale gradient + l2 w;  m += (1 - beta1) (g - m);
//   v += (1 - beta2) (g g - v);  w -= rate sqrt(1 - beta2_power) / (1 - beta1_power) m / (sqrt(v) + epsilon)
// Output: the number of elements that were updated.
VNET_ENTRY(AdamUpdate) {
  using namespace vnet;
  int tensors = (call.count - aTensors - 1) / 4;
  check_sizes(call, tensors);
  float* updated = call.get<float>(call.count - 1);
  updated[0] = 0;
  if (call.get<float>(aFinite)[0] == 0) return;

  const float* config = call.get<float>(aConfig);
  float beta1 = config[0], beta2 = config[1], rate = call.get<float>(aRate)[0];
  float power1 = call.get<float>(aPower1)[0] *= beta1, power2 = call.get<float>(aPower2)[0] *= beta2;
  float step = static_cast<float>(rate * std::sqrt(1.0 - power2) / (1.0 - power1));
  Adam adam = {1 - beta1, 1 - beta2, config[2], rate, step, call.get<float>(aGradScale)[0]};
  const float *l2 = config + kConfigValues, *decoupled = l2 + tensors;
  int64_t total = total_size(call, aTensors, tensors);
  share(total, [&](int64_t first, int64_t last, int) {
    by_tensor(call, aTensors, tensors, first, last, [&](int tensor, int64_t begin, int64_t end) {
      auto part = [&](int kind) { return call.get<float>(aTensors + kind * tensors + tensor) + begin; };
      adam.update(part(0), part(1), part(2), part(3), end - begin, l2[tensor], decoupled[tensor]);
    });
  });
  updated[0] = static_cast<float>(total);
}

namespace vnet {
namespace {

// Returns P of a call whose inputs are `before` tensors, P averages and P values of the same sizes, with one output.
int check_pairs(const Call& call, int before) {
  int tensors = (call.count - before - 1) / 2;
  if (tensors < 1 || call.count != before + 2 * tensors + 1)
    throw std::invalid_argument("found " + std::to_string(call.count) + " tensors, expected " + std::to_string(before) +
                                " + 2 P inputs, 1 output");
  for (int tensor = 0; tensor < tensors; ++tensor) {
    if (call.size(before + tensor) != call.size(before + tensors + tensor))
      throw std::invalid_argument("average " + std::to_string(tensor) + " has another size than its value");
  }
  return tensors;
}

}  // namespace
}  // namespace vnet

// Inputs: share (fp32 scalar; 0: nothing changes), then P averages and P values of the same sizes, all fp32. The averages
// change in place: average += share (value - average). Output: the number of elements that were updated.
VNET_ENTRY(AverageUpdate) {
  using namespace vnet;
  int tensors = check_pairs(call, 1);
  float* updated = call.get<float>(call.count - 1);
  updated[0] = 0;
  float share_of_value = call.get<float>(0)[0];
  if (share_of_value == 0) return;

  int64_t total = total_size(call, 1, tensors);
  share(total, [&](int64_t first, int64_t last, int) {
    by_tensor(call, 1, tensors, first, last, [&](int tensor, int64_t begin, int64_t end) {
      average(call.get<float>(1 + tensor) + begin, call.get<float>(1 + tensors + tensor) + begin, end - begin,
              share_of_value);
    });
  });
  updated[0] = static_cast<float>(total);
}

// Inputs: P averages and P values of the same sizes, fp32, which change places in memory. Output: how many elements did.
VNET_ENTRY(AverageSwap) {
  using namespace vnet;
  int tensors = check_pairs(call, 0);
  int64_t total = total_size(call, 0, tensors);
  share(total, [&](int64_t first, int64_t last, int) {
    by_tensor(call, 0, tensors, first, last, [&](int tensor, int64_t begin, int64_t end) {
      float* values = call.get<float>(tensors + tensor);
      std::swap_ranges(values + begin, values + end, call.get<float>(tensor) + begin);
    });
  });
  call.get<float>(call.count - 1)[0] = static_cast<float>(total);
}
