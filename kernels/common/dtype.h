// Element types a kernel may be handed, and their sizes.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace c2f {

enum class DType : int32_t { kU8, kU16, kI16, kI32, kI64, kF16, kBF16, kF32 };

C2F_HD int dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return 1;
    case DType::kU16:
    case DType::kI16:
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kI32:
    case DType::kF32:
      return 4;
    case DType::kI64:
      return 8;
  }
  return 0;
}

C2F_HD bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

}  // namespace c2f
