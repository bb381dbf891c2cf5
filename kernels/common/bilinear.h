// Source index and weight of a bilinear tap, align_corners=False, exactly as
// F.interpolate(size=...) computes them in float32: src = max(0, source_position), scale = in /
// out.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"
#include "source_position.h"

namespace c2f {

struct BilinearTap {
  int32_t i0;  // first source index
  int32_t i1;  // second source index, clamped to in - 1
  float w1;    // weight of i1; the weight of i0 is 1 - w1
};

C2F_HD float resize_scale(int64_t in_size, int64_t out_size) {
  return static_cast<float>(in_size) / static_cast<float>(out_size);
}

C2F_HD BilinearTap bilinear_tap(int64_t dst, float scale, int64_t in_size) {
  float src = source_position(dst, scale);
  src = src < 0.0f ? 0.0f : src;
  const int32_t last = static_cast<int32_t>(in_size) - 1;  // in_size <= kMaxResizedAxis
  int32_t i0 = static_cast<int32_t>(src);
  // Rounding of scale * (dst + 0.5) may reach in_size for long axes; the tap must not.
  if (i0 > last) i0 = last;
  const int32_t i1 = i0 < last ? i0 + 1 : i0;
  float w1 = src - static_cast<float>(i0);
  w1 = w1 > 1.0f ? 1.0f : w1;
  return {i0, i1, w1};
}

// On an axis that is not resized a position is its own source, even where the axis is too long for
// float32 positions. The neighbour is not read, so that a NaN or infinity in it does not spread.
C2F_HD BilinearTap unresized_tap(int64_t dst) {
  return {static_cast<int32_t>(dst), static_cast<int32_t>(dst), 0.0f};
}

// Value between four source pixels, p10 below p00 and p01 to its right: horizontal taps first, as
// F.interpolate orders them. Taps of weight 0 are multiplied, too: a NaN or infinity in them
// counts.
C2F_HD float bilinear_value(float p00, float p01, float p10, float p11, float w1_y, float w1_x) {
  const float w0_x = 1.0f - w1_x;
  const float top = fmaf(p01, w1_x, p00 * w0_x);
  const float bottom = fmaf(p11, w1_x, p10 * w0_x);
  return fmaf(bottom, w1_y, top * (1.0f - w1_y));
}

}  // namespace c2f
