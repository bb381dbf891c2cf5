// Where output position dst lies on the source axis, align_corners=False: scale * (dst + 0.5) - 0.5
// with scale = in / out.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace c2f {

// Longest output axis that can be interpolated; on longer ones float32 positions skip columns.
constexpr int64_t kMaxResizedAxis = int64_t{1} << 22;

// Rounded once, as builds of F.interpolate contract this expression into a fused multiply-add. With
// two roundings weights would differ by an ulp of the position, unless the ratio is a power of two.
C2F_HD float source_position(int64_t dst, float scale) {
  return fmaf(scale, static_cast<float>(dst) + 0.5f, -0.5f);
}

}  // namespace c2f
