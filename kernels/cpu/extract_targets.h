// extract_targets: binary targets of the windows of a label map, one table look-up per pixel.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/params.h"
#include "parallel.h"
#include "pixel_rows.h"

namespace c2f::cpu {

namespace detail {

// Labels outside 0..255 have target 0: they are never small, nor ignore_index, which lies in
// 0..255.
template <class T>
inline void target_row(const T* row, int64_t stride, const uint8_t* target_of, int64_t n,
                       uint8_t* out) {
  for (int64_t x = 0; x < n; ++x) {
    const T label = row[x * stride];
    if constexpr (sizeof(T) == 1) {
      out[x] = target_of[label];
    } else {
      out[x] = label >= 0 && label <= 255 ? target_of[label] : 0;
    }
  }
}

inline void target_row(const Seg& labels, int64_t offset, const uint8_t* target_of, int64_t n,
                       uint8_t* out) {
  visit_label_type(labels.dtype, [&](auto* type) {
    const auto* row = static_cast<decltype(type)>(labels.data) + offset;
    target_row(row, labels.stride_x, target_of, n, out);
  });
}

}  // namespace detail

inline void extract_targets(const ExtractTargetsParams& params, int threads) {
  const WindowList& windows = params.windows;
  const int64_t k = windows.window_px;
  uint8_t target_of[kMaxClasses];
  for (int c = 0; c < kMaxClasses; ++c) target_of[c] = params.classes.is_small[c] != 0 ? 1 : 0;
  target_of[params.ignore_index] = static_cast<uint8_t>(params.ignore_index);
  parallel_for(windows.B * windows.n, threads, [&](int64_t patch, int) {
    const int64_t b = patch / windows.n;
    uint8_t* out = params.out + patch * k * k;
    if (patch % windows.n >= windows.num[b]) {
      std::memset(out, static_cast<int>(params.ignore_index), static_cast<size_t>(k * k));
      return;
    }
    const int32_t* origin = windows.origins + 2 * patch;
    int64_t offset = b * params.labels.stride_b + origin[0] * params.labels.stride_y +
                     origin[1] * params.labels.stride_x;
    for (int64_t y = 0; y < k; ++y, offset += params.labels.stride_y) {
      detail::target_row(params.labels, offset, target_of, k, out + y * k);
    }
  });
}

}  // namespace c2f::cpu
