// Sources and weights of one output position along one axis, for every way of resampling: what
// F.interpolate(align_corners=False) reads.
#pragma once

#include <cstdint>

#include "bilinear.h"
#include "cubic.h"
#include "host_device.h"
#include "params.h"
#include "source_position.h"

namespace c2f {

// An output reads the sources first .. first + taps - 1, each clamped to the axis.
struct ResampleTap {
  int32_t first;
  float w[4];
};

// Taps of an output: 1 for nearest and on an axis that is not resized.
C2F_HD int resample_taps(Resample mode, bool resized) {
  if (!resized || mode == Resample::kNearest) return 1;
  return mode == Resample::kBilinear ? 2 : 4;
}

// `scale` is in_size / out_size.
C2F_HD ResampleTap resample_tap(Resample mode, bool resized, int64_t dst, float scale,
                                int64_t in_size) {
  if (!resized) return {static_cast<int32_t>(dst), {1.0f, 0.0f, 0.0f, 0.0f}};
  if (mode == Resample::kNearest) {
    return {nearest_source(dst, scale, in_size), {1.0f, 0.0f, 0.0f, 0.0f}};
  }
  if (mode == Resample::kBilinear) {
    const BilinearTap tap = bilinear_tap(dst, scale, in_size);
    return {tap.i0, {1.0f - tap.w1, tap.w1, 0.0f, 0.0f}};
  }
  const CubicTap tap = cubic_tap(dst, scale, in_size);
  return {tap.first, {tap.w[0], tap.w[1], tap.w[2], tap.w[3]}};
}

}  // namespace c2f
