// The operators of a unit as MindSpore calls them: on the batch, or, where the norm takes each sample by itself
// (Ulyanov et al. 2016, "Instance normalization"), sample by sample behind the convolution.
#include <initializer_list>

#include "samples.h"
#include "units.h"

namespace vnet {

namespace {

Shape result_of(const Call& call, int x, int weight) {
  Config config = read_config(call);
  return result_shape(config, shape_of(call, x), channels_of(call, config, weight));
}

// All samples are convolved together, whose weights are transformed once; what follows is by sample. The `output` kind
// has few channels and is computed by sample altogether.
template <class T>
void finish_samples(const Call& call, T* y, bool inference) {
  Shape one = result_of(call, iX, iWeight);
  int64_t samples = one.n, size = one.c * one.voxels();
  one.n = 1;
  for (int64_t n = 0; n < samples; ++n) {
    ScratchScope scope;
    SampleCall sample(call);
    for (int i : {+iX, +iResidual, +iKeep, +iForwardCount}) sample.choose(i, n);
    if (inference) {
      // The forward pass has the unit's result one place further, and the statistics behind it.
      sample.append_like(iForwardCount);
      sample.append_like(iConstants);
      sample.point(iForwardCount + 2, scratch<float>(2 * one.c));
    } else {
      sample.choose(iForwardCount + 1, n);
      sample.choose(iForwardCount + 2, n);
    }
    if (y == nullptr) {  // the `output` kind
      if (inference) sample.point(iForwardCount, scratch_volume<float>(one));
      unit_forward<T>(sample.call());
      continue;
    }
    double* sums = scratch<double>(2 * one.c);
    channel_sums<T>(one, y + n * size, sums);
    unit_finish<T>(sample.call(), y + n * size, sums);
  }
}

template <class T>
void by_sample_forward(const Call& call) {
  Config config = read_config(call);
  if (config.kind == kOutput) return finish_samples<T>(call, nullptr, false);
  T* y = keeps_result(config) ? call.get<T>(iForwardCount) : scratch_volume<T>(result_of(call, iX, iWeight));
  unit_convolve<T>(call, y, nullptr);
  finish_samples<T>(call, y, false);
}

// Forward again, since the statistics are the sample's own there too.
template <class T>
void by_sample_inference(const Call& call) {
  if (read_config(call).kind == kOutput) return finish_samples<T>(call, nullptr, true);
  T* y = scratch_volume<T>(result_of(call, iX, iWeight));
  unit_convolve<T>(call, y, nullptr);
  finish_samples<T>(call, y, true);
}

template <class T>
void by_sample_backward(const Call& call) {
  bool whole = read_config(call).kind != kOutput;
  Shape one = result_of(call, bX, bWeight);
  int64_t samples = one.n, size = one.c * one.voxels();
  T* y = whole ? unit_convolved<T>(call) : nullptr;
  for (int64_t n = 0; n < samples; ++n) {
    ScratchScope scope;
    SampleCall sample(call);
    for (int i : {bDout, bX, bResidual, bKeep, bY, bStats, bDx, bDresidual}) sample.choose(i, n);
    // Gradients at parameters are sums over the samples.
    auto add_up = [&](auto backward, std::initializer_list<int> gradients) {
      if (n > 0)
        for (int i : gradients) sample.point(i, scratch<float>(call.size(i)));
      backward();
      if (n == 0) return;
      for (int i : gradients)
        add<float>(call.size(i), call.get<float>(i), sample.call().template get<float>(i), call.get<float>(i));
    };
    if (whole)
      add_up([&] { unit_backward_finish<T>(sample.call(), y + n * size); },
             {bDbias, bDgamma, bDbeta, bDslope, bDslope2});
    else
      add_up([&] { unit_backward<T>(sample.call()); }, {bDweight, bDbias, bDgamma, bDbeta, bDslope, bDslope2});
  }
  if (whole) unit_backward_convolve<T>(call, y);
}

bool by_sample(const Call& call) { return read_config(call).norm == Norm::instance; }

}  // namespace

}  // namespace vnet

VNET_ENTRY(UnitForward) {
  bool half = call.is_bf16(vnet::iX) || call.is_bf16(vnet::iForwardCount);
  if (vnet::by_sample(call))
    return half ? vnet::by_sample_forward<vnet::bf16>(call) : vnet::by_sample_forward<float>(call);
  half ? vnet::unit_forward<vnet::bf16>(call) : vnet::unit_forward<float>(call);
}
VNET_ENTRY(UnitInference) {
  bool half = call.is_bf16(vnet::iX) || call.is_bf16(vnet::iForwardCount);
  if (vnet::by_sample(call))
    return half ? vnet::by_sample_inference<vnet::bf16>(call) : vnet::by_sample_inference<float>(call);
  half ? vnet::unit_inference<vnet::bf16>(call) : vnet::unit_inference<float>(call);
}
VNET_ENTRY(UnitBackward) {
  bool half = call.is_bf16(vnet::bX) || call.is_bf16(vnet::bY);
  if (vnet::by_sample(call))
    return half ? vnet::by_sample_backward<vnet::bf16>(call) : vnet::by_sample_backward<float>(call);
  half ? vnet::unit_backward<vnet::bf16>(call) : vnet::unit_backward<float>(call);
}
