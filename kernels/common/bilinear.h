// Source index and weight of a bilinear tap, align_corners=False, exactly as
// F.interpolate(size=...) computes them in float32: src = max(0, source_position), scale = in /
// out.
#pragma once

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
  int32_t i0 = static_cast<int32_t>(src);
  // Rounding of scale * (dst + 0.5) may reach in_size for long axes; the tap must not.
  if (i0 > in_size - 1) i0 = static_cast<int32_t>(in_size - 1);
  const int32_t i1 = i0 < in_size - 1 ? i0 + 1 : i0;
  float w1 = src - static_cast<float>(i0);
  w1 = w1 > 1.0f ? 1.0f : w1;
  return {i0, i1, w1};
}

// On an axis that is not resized a position is its own source, on axes too long for float32
// positions as well. Its neighbour is not looked at: a NaN there, or an infinity, stays there.
C2F_HD BilinearTap unresized_tap(int64_t dst) {
  return {static_cast<int32_t>(dst), static_cast<int32_t>(dst), 0.0f};
}

}  // namespace c2f
