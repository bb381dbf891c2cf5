// Taps of a patch along one axis.
#pragma once

#include <cstdint>

#include "../common/resample_tap.h"
#include "gpu.cuh"

namespace c2f::cuda {

__device__ __forceinline__ int32_t clamp_to_axis(int32_t i, int32_t size) {
  return i < 0 ? 0 : i < size ? i : size - 1;
}

// resample_tap with the mode as a constant, as the number of taps implies it. `scale` is window /
// side.
template <int kTaps>
__device__ __forceinline__ ResampleTap patch_tap(bool resized, int32_t dst, float scale,
                                                 int32_t window_px) {
  if constexpr (kTaps == 2) {
    return resample_tap(Resample::kBilinear, true, dst, scale, window_px);
  } else if constexpr (kTaps == 4) {
    return resample_tap(Resample::kBicubic, true, dst, scale, window_px);
  } else {
    return resample_tap(Resample::kNearest, resized, dst, scale, window_px);
  }
}

}  // namespace c2f::cuda
