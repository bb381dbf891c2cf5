// The instantiations of a kernel that counts cells: F(K, T, N, dtype, kind) for each.
#pragma once

#include "../../kernels/cuda/cell_counts_args.h"

namespace c2f::cuda {

// One instantiation per type, kind and, for logits, compiled-in number of classes (0: any number).
constexpr uint32_t cell_key(DType dtype, CellKind kind, int64_t classes) {
  return static_cast<uint32_t>(dtype) << 16 | static_cast<uint32_t>(kind) << 12 |
         static_cast<uint32_t>(classes);
}

}  // namespace c2f::cuda

// clang-format off
#define C2F_LOGIT_KERNELS(F, K, T, dtype, kind) \
  F(K, T, 0, dtype, kind)                       \
  F(K, T, 2, dtype, kind)                       \
  F(K, T, 6, dtype, kind)                       \
  F(K, T, 7, dtype, kind)                       \
  F(K, T, 16, dtype, kind)

#define C2F_LOGIT_TYPES(F, K, kind)        \
  C2F_LOGIT_KERNELS(F, K, float, kF32, kind) \
  C2F_LOGIT_KERNELS(F, K, F16, kF16, kind)   \
  C2F_LOGIT_KERNELS(F, K, BF16, kBF16, kind)

#define C2F_CELL_KERNELS(F, K)      \
  F(K, uint8_t, 0, kU8, kLabels)    \
  F(K, int16_t, 0, kI16, kLabels)   \
  F(K, int32_t, 0, kI32, kLabels)   \
  F(K, int64_t, 0, kI64, kLabels)   \
  C2F_LOGIT_TYPES(F, K, kOwnSize)   \
  C2F_LOGIT_TYPES(F, K, kUpsampled)
// clang-format on
