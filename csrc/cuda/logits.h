// Memory layouts of coarse logits, and compiled-in numbers of classes, for all ops that read them.
#pragma once

#include <cstdint>

#include "../../kernels/common/params.h"

namespace c2f::cuda {

// Whether a pixel's classes can be loaded 16 bytes at a time.
inline bool packed(const Seg& seg) {
  const int64_t elems = 16 / dtype_bytes(seg.dtype);
  return seg.stride_n == 1 && seg.N % elems == 0 && seg.stride_b % elems == 0 &&
         seg.stride_y % elems == 0 && seg.stride_x % elems == 0 &&
         reinterpret_cast<uintptr_t>(seg.data) % 16 == 0;
}

// Whether four pixels of a row, from every fourth one on, can be loaded at once.
inline bool quads(const Seg& seg) {
  return seg.stride_x == 1 && seg.w % 4 == 0 && seg.stride_b % 4 == 0 && seg.stride_n % 4 == 0 &&
         seg.stride_y % 4 == 0 &&
         reinterpret_cast<uintptr_t>(seg.data) % (4 * dtype_bytes(seg.dtype)) == 0;
}

// The number of classes if kernels are compiled for it (see the lists in *_kernels.h), else 0: any.
inline int64_t compiled_in(int64_t classes) {
  return classes == 2 || classes == 6 || classes == 7 || classes == 16 ? classes : 0;
}

}  // namespace c2f::cuda
