// extract_targets: binary targets of the windows of a label map. A thread makes eight neighbouring
// bytes of a row of a patch, or what is left at its end.
#pragma once

#include <cstdint>

#include "extract_targets_args.h"
#include "gpu.cuh"
#include "window_list.cuh"

namespace c2f::cuda {

template <class T>
__device__ __forceinline__ uint32_t target_of(const TargetArgs& a, T label) {
  const uint32_t target = a.classes.has_id(label) ? 1 : 0;
  return label == a.ignore_index ? static_cast<uint32_t>(a.ignore_index) : target;
}

template <class T>
__global__ void C2F_BOUNDS(kTargetThreads)
    extract_targets_kernel(const __grid_constant__ TargetArgs a) {
  const int32_t block = static_cast<int32_t>(blockIdx.x);
  const int32_t patch = a.by_blocks.quotient(block);
  const Slot slot = slot_of(a.windows, a.by_slots, patch);
  const int64_t part = int64_t{block - patch * a.blocks} * kTargetThreads + threadIdx.x;
  if (part >= a.parts) return;  // no barriers in this kernel
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  // A 64-bit division is slow.
  const int64_t y = a.parts < kMostDivided ? a.by_row_parts.quotient(static_cast<int32_t>(part))
                                           : part / a.row_parts;
  const int32_t x = static_cast<int32_t>(part - y * a.row_parts) * kTargetPixels;
  const int count = k - x < kTargetPixels ? k - x : kTargetPixels;

  uint32_t target[kTargetPixels];
#pragma unroll
  for (uint32_t& each : target) each = static_cast<uint32_t>(a.ignore_index);
  Origin origin{0, 0, false};
  if (slot.j < windows_of_image(a.windows, slot.b)) {
    origin = origin_of(a.windows, slot.b, slot.j, a.labels.h, a.labels.w);
  }
  if (origin.used) {
    const int64_t stride = a.labels.stride_x;
    const T* at = static_cast<const T*>(a.labels.data) + slot.b * a.labels.stride_b +
                  (origin.y + y) * a.labels.stride_y + (origin.x + x) * stride;
    if (count == kTargetPixels && stride == 1) {
#pragma unroll
      for (int i = 0; i < kTargetPixels; ++i) target[i] = target_of(a, at[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kTargetPixels; ++i, at += stride) {
        if (i < count) target[i] = target_of(a, *at);
      }
    }
  }

  uint8_t* out = a.out + (patch * int64_t{k} + y) * k + x;
  if (a.packed) {
    uint2 packed;
    packed.x = target[0] | target[1] << 8 | target[2] << 16 | target[3] << 24;
    packed.y = target[4] | target[5] << 8 | target[6] << 16 | target[7] << 24;
    *reinterpret_cast<uint2*>(out) = packed;
    return;
  }
#pragma unroll
  for (int i = 0; i < kTargetPixels; ++i) {
    if (i < count) out[i] = static_cast<uint8_t>(target[i]);
  }
}

}  // namespace c2f::cuda
