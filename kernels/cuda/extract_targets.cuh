// extract_targets: binary targets of the windows of a label map. A thread makes four neighbouring
// bytes of a patch, as it lies in memory.
#pragma once

#include <cstdint>

#include "extract_targets_args.h"
#include "gpu.cuh"
#include "window_list.cuh"

namespace c2f::cuda {

template <class T>
__global__ void C2F_BOUNDS(kTargetThreads)
    extract_targets_kernel(const __grid_constant__ TargetArgs a) {
  const int64_t patch = blockIdx.x / a.blocks;
  const Slot slot = slot_of(a.windows, patch);
  const int64_t first = ((blockIdx.x - patch * a.blocks) * kTargetThreads + threadIdx.x) * 4;
  Origin origin{0, 0, false};
  if (slot.j < windows_of_image(a.windows, slot.b)) {
    origin = origin_of(a.windows, slot.b, slot.j, a.labels.h, a.labels.w);
  }
  const T* corner = static_cast<const T*>(a.labels.data) + slot.b * a.labels.stride_b +
                    origin.y * a.labels.stride_y + origin.x * a.labels.stride_x;
  const int64_t k = a.windows.window_px;
  int64_t y = first / k, x = first - y * k;  // once for four: a division in 64 bits is slow
  uint32_t four = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t target = static_cast<uint32_t>(a.ignore_index);
    if (origin.used && first + i < a.elems) {
      const int64_t label = corner[y * a.labels.stride_y + x * a.labels.stride_x];
      if (label != a.ignore_index) target = a.classes.has_id(label) ? 1 : 0;
    }
    four |= target << (8 * i);
    const bool wraps = ++x == k;
    x = wraps ? 0 : x;
    y += wraps ? 1 : 0;
  }
  uint8_t* out = a.out + patch * a.elems + first;
  if (a.words && first < a.elems) {  // then k * k is a multiple of 4, too
    *reinterpret_cast<uint32_t*>(out) = four;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + i < a.elems) out[i] = static_cast<uint8_t>(four >> (8 * i));
  }
}

}  // namespace c2f::cuda
