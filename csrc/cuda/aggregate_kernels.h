#pragma once

#include "../../kernels/common/dtype.h"
#include "../../kernels/cuda/aggregate_args.h"

namespace c2f::cuda {

// To labels: one instantiation per type of the coarse logits, source of the coarse labels and
// compiled-in number of classes (0: any number). To scores: one per number of classes.
constexpr uint32_t labels_key(DType coarse, LabelKind kind, int64_t classes) {
  return 1u << 31 | static_cast<uint32_t>(coarse) << 16 | static_cast<uint32_t>(kind) << 12 |
         static_cast<uint32_t>(classes);
}
constexpr uint32_t probs_key(int64_t classes) { return static_cast<uint32_t>(classes); }

}  // namespace c2f::cuda

// clang-format off: it does not come to rest on these lists
#define C2F_LABELS_KERNEL(K, T, dtype, kind, N)       \
  K(labels_key(DType::dtype, LabelKind::kind, N), \
    aggregate_labels_kernel<T, N, LabelKind::kind>)

#define C2F_LABELS_BY(K, T, dtype, kind)   \
  C2F_LABELS_KERNEL(K, T, dtype, kind, 0)  \
  C2F_LABELS_KERNEL(K, T, dtype, kind, 2)  \
  C2F_LABELS_KERNEL(K, T, dtype, kind, 6)  \
  C2F_LABELS_KERNEL(K, T, dtype, kind, 7)  \
  C2F_LABELS_KERNEL(K, T, dtype, kind, 16)

#define C2F_LABELS_OF(K, T, dtype)         \
  C2F_LABELS_BY(K, T, dtype, kGiven)       \
  C2F_LABELS_BY(K, T, dtype, kOwnSize)     \
  C2F_LABELS_BY(K, T, dtype, kUpsampled)

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
