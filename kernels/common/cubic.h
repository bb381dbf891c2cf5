// Source index and weights of a bicubic tap (a = -0.75, align_corners=False) in F.interpolate's
// float32 arithmetic. Unlike for a bilinear tap, the source position is not clamped at 0.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"
#include "source_position.h"

namespace c2f {

struct CubicTap {
  int32_t first;  // index of the first of four sources, -2..in - 2; each is clamped to 0..in - 1
  float w[4];
};

// Keys' kernel for |x| <= 1 and for 1 < |x| < 2, contracted as F.interpolate's builds contract it.
C2F_HD float cubic_near(float x) {
  constexpr float a = -0.75f;
  return fmaf(fmaf(a + 2.0f, x, -(a + 3.0f)) * x, x, 1.0f);
}
C2F_HD float cubic_far(float x) {
  constexpr float a = -0.75f;
  return fmaf(fmaf(fmaf(a, x, -5.0f * a), x, 8.0f * a), x, -4.0f * a);
}

C2F_HD CubicTap cubic_tap(int64_t dst, float scale, int64_t in_size) {
  const float src = source_position(dst, scale);
  int32_t at = static_cast<int32_t>(floorf(src));
  if (at > in_size - 1) at = static_cast<int32_t>(in_size - 1);
  float t = src - static_cast<float>(at);
  t = t > 1.0f ? 1.0f : t;
  const float s = 1.0f - t;
  return {at - 1, {cubic_far(t + 1.0f), cubic_near(t), cubic_near(s), cubic_far(s + 1.0f)}};
}

// F.interpolate's "nearest": floor(dst * scale).
C2F_HD int32_t nearest_source(int64_t dst, float scale, int64_t in_size) {
  const int32_t at = static_cast<int32_t>(floorf(static_cast<float>(dst) * scale));
  return at < in_size - 1 ? at : static_cast<int32_t>(in_size - 1);
}

}  // namespace c2f
