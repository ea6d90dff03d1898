// 5x5x5 convolution, stride 1, same size, and its gradient to the input, by Winograd's minimal filtering on three axes
// (winograd_tile.h has the formulas): tiles of M^3 outputs are
//
//     A^T [ sum over input channels of (G g) * (B^T x) ],     transforms nested over d, h and w,
//
// and the sum over channels is, for each point of the transform, a product of matrices: tiles x channels times
// channels x channels. The gradient to the input is the same with the weights flipped and transposed.
//
// winograd_fused.h and winograd_cooperative.h are the two forms of the computation.
#include <stdexcept>

#include "winograd_cooperative.h"
#include "winograd_fused.h"

namespace vnet {

namespace {

template <class T>
void convolve(Shape in, int64_t channels, const T* x, const float* weight, KernelUse use, T* y,
              const Epilogue<T>& epilogue, Tiling tiling) {
  ScratchScope scope;
  if (in.c < kLanes || in.c % kLanes || channels < kLanes || channels % kLanes || in.n < 1 || in.voxels() < 1 ||
      in.c > kCopiedFloats) {
    throw std::invalid_argument("Winograd convolution: channels must be multiples of 16, at most 8192; sizes positive");
  }
  switch (tiling) {
    case Tiling::f444:
      return DataConvolution<T, 8, 8, 8>(in, channels, x, weight, use, y, epilogue).run();
    case Tiling::f442:
      return DataConvolution<T, 8, 8, 6>(in, channels, x, weight, use, y, epilogue).run();
    case Tiling::f222:
      return DataConvolution<T, 6, 6, 6>(in, channels, x, weight, use, y, epilogue).run();
    default:
      throw std::invalid_argument("Winograd convolution: no such tiling");
  }
}

}  // namespace

template <class T>
void winograd_forward(Shape in, int64_t channels, const T* x, const float* weight, T* y, const Epilogue<T>& epilogue,
                      Tiling tiling) {
  convolve(in, channels, x, weight, KernelUse::forward, y, epilogue, tiling);
}

template <class T>
void winograd_backward_data(Shape in, int64_t channels, const T* dy, const float* weight, T* dx, const T* add,
                            Tiling tiling) {
  Epilogue<T> epilogue;
  epilogue.residual = add;
  Shape gradient{in.n, channels, in.d, in.h, in.w};
  convolve(gradient, in.c, dy, weight, KernelUse::backward_data, dx, epilogue, tiling);
}

template void winograd_forward(Shape, int64_t, const float*, const float*, float*, const Epilogue<float>&, Tiling);
template void winograd_forward(Shape, int64_t, const bf16*, const float*, bf16*, const Epilogue<bf16>&, Tiling);
template void winograd_backward_data(Shape, int64_t, const float*, const float*, float*, const float*, Tiling);
template void winograd_backward_data(Shape, int64_t, const bf16*, const float*, bf16*, const bf16*, Tiling);

}  // namespace vnet
