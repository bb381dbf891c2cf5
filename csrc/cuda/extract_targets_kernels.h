#pragma once

#include "../../kernels/common/dtype.h"

namespace c2f::cuda {

// One instantiation per type of the label map.
constexpr uint32_t targets_key(DType labels) { return static_cast<uint32_t>(labels); }

}  // namespace c2f::cuda

#define C2F_EXTRACT_TARGETS_KERNELS(K)                         \
  K(targets_key(DType::kU8), extract_targets_kernel<uint8_t>)  \
  K(targets_key(DType::kI16), extract_targets_kernel<int16_t>) \
  K(targets_key(DType::kI32), extract_targets_kernel<int32_t>) \
  K(targets_key(DType::kI64), extract_targets_kernel<int64_t>)
