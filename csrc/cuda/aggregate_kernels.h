#pragma once

#include "../../kernels/common/dtype.h"

namespace c2f::cuda {

// To labels: one instantiation per type of the coarse logits and number of classes that is compiled
// in (0 takes any). To scores: one per number of classes.
constexpr uint32_t labels_key(DType coarse, int64_t classes) {
  return 1u << 31 | static_cast<uint32_t>(coarse) << 16 | static_cast<uint32_t>(classes);
}
constexpr uint32_t probs_key(int64_t classes) { return static_cast<uint32_t>(classes); }

}  // namespace c2f::cuda

// clang-format off: it does not come to rest on these lists
#define C2F_LABELS_OF(K, T, dtype)                               \
  K(labels_key(DType::dtype, 0), aggregate_labels_kernel<T, 0>)  \
  K(labels_key(DType::dtype, 2), aggregate_labels_kernel<T, 2>)  \
  K(labels_key(DType::dtype, 6), aggregate_labels_kernel<T, 6>)  \
  K(labels_key(DType::dtype, 7), aggregate_labels_kernel<T, 7>)  \
  K(labels_key(DType::dtype, 16), aggregate_labels_kernel<T, 16>)

#define C2F_AGGREGATE_KERNELS(K)               \
  C2F_LABELS_OF(K, float, kF32)                \
  C2F_LABELS_OF(K, F16, kF16)                  \
  C2F_LABELS_OF(K, BF16, kBF16)                \
  K(probs_key(0), aggregate_probs_any_kernel)  \
  K(probs_key(2), aggregate_probs_kernel<2>)   \
  K(probs_key(6), aggregate_probs_kernel<6>)   \
  K(probs_key(7), aggregate_probs_kernel<7>)   \
  K(probs_key(16), aggregate_probs_kernel<16>)
// clang-format on
