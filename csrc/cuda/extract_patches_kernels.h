#pragma once

#include "../../kernels/common/dtype.h"

namespace c2f::cuda {

// One instantiation per type of the image, or of the patches' gradient, and number of taps along an
// axis (1, 2 or 4).
constexpr uint32_t patches_key(DType image, int taps) {
  return static_cast<uint32_t>(image) << 4 | static_cast<uint32_t>(taps);
}

}  // namespace c2f::cuda

// clang-format off: it does not come to rest on these lists
#define C2F_PATCHES_OF(K, T, dtype)                              \
  K(patches_key(DType::dtype, 1), extract_patches_kernel<T, 1>)  \
  K(patches_key(DType::dtype, 2), extract_patches_kernel<T, 2>)  \
  K(patches_key(DType::dtype, 4), extract_patches_kernel<T, 4>)

#define C2F_EXTRACT_PATCHES_KERNELS(K)  \
  C2F_PATCHES_OF(K, uint8_t, kU8)       \
  C2F_PATCHES_OF(K, uint16_t, kU16)     \
  C2F_PATCHES_OF(K, int16_t, kI16)      \
  C2F_PATCHES_OF(K, float, kF32)        \
  C2F_PATCHES_OF(K, F16, kF16)          \
  C2F_PATCHES_OF(K, BF16, kBF16)

#define C2F_PATCHES_BACKWARD_OF(K, T, dtype)                              \
  K(patches_key(DType::dtype, 1), extract_patches_backward_kernel<T, 1>)  \
  K(patches_key(DType::dtype, 2), extract_patches_backward_kernel<T, 2>)  \
  K(patches_key(DType::dtype, 4), extract_patches_backward_kernel<T, 4>)

#define C2F_EXTRACT_PATCHES_BACKWARD_KERNELS(K)  \
  C2F_PATCHES_BACKWARD_OF(K, float, kF32)        \
  C2F_PATCHES_BACKWARD_OF(K, F16, kF16)          \
  C2F_PATCHES_BACKWARD_OF(K, BF16, kBF16)
// clang-format on
