// The operators of a unit as MindSpore calls them: on the batch, or, where the normalisation takes each sample by itself
// (Ulyanov et al. 2016, "Instance normalization"), on one sample after the other.
#include "samples.h"
#include "units.h"

namespace vnet {

namespace {

// Each sample by itself: forward, and forward again for inference, since its statistics are its own there too.
template <class T>
void by_sample_forward(const Call& call) {
  for (int64_t n = 0; n < call.dim(iX, 0); ++n) {
    ScratchScope scope;
    SampleCall sample(call);
    for (int i : {+iX, +iResidual, +iKeep, iForwardCount + 0, iForwardCount + 1, iForwardCount + 2})
      sample.choose(i, n);
    unit_forward<T>(sample.call());
  }
}

template <class T>
void by_sample_inference(const Call& call) {
  Config config = read_config(call);
  int64_t channels = channels_of(call, config, iWeight);
  Shape one = shape_of(call, iX);
  one.n = 1;
  Shape result = result_shape(config, one, channels);
  for (int64_t n = 0; n < call.dim(iX, 0); ++n) {
    ScratchScope scope;
    SampleCall sample(call);
    for (int i : {+iX, +iResidual, +iKeep, +iForwardCount}) sample.choose(i, n);
    // The forward pass has the convolution's result before the unit's, and the statistics behind it.
    void* y = config.kind == kOutput ? static_cast<void*>(scratch_volume<float>(result))
              : keeps_result(config) ? static_cast<void*>(scratch_volume<T>(result)) : nullptr;
    sample.append_like(iForwardCount);
    sample.append_like(iConstants);
    sample.point(iForwardCount, y);
    sample.point(iForwardCount + 2, scratch<float>(2 * channels));
    unit_forward<T>(sample.call());
  }
}

template <class T>
void by_sample_backward(const Call& call) {
  for (int64_t n = 0; n < call.dim(bX, 0); ++n) {
    ScratchScope scope;
    SampleCall sample(call);
    for (int i : {bDout, bX, bResidual, bKeep, bY, bStats, bDx, bDresidual}) sample.choose(i, n);
    constexpr int kSums[] = {bDweight, bDbias, bDgamma, bDbeta, bDslope, bDslope2};
    if (n > 0)
      for (int i : kSums) sample.point(i, scratch<float>(call.size(i)));
    unit_backward<T>(sample.call());
    if (n == 0) continue;
    for (int i : kSums) add<float>(call.size(i), call.get<float>(i), sample.call().get<float>(i), call.get<float>(i));
  }
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
