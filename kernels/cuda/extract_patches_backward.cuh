// Gradient of extract_patches with respect to the image. A thread owns an element of the image and
// gathers what every window over it sends back, windows in slot order, outputs in raster order: no
// atomics, the same sum every time.
#pragma once

#include <cstdint>

#include "../common/bilinear.h"
#include "../common/resample_tap.h"
#include "element.cuh"
#include "extract_patches_args.h"
#include "gpu.cuh"
#include "window_list.cuh"

namespace c2f::cuda {

// Outputs along one axis that may read source position s: all that do, and a few neighbours.
struct OutputRange {
  int32_t begin, end;
};

__device__ __forceinline__ OutputRange outputs_reading(int taps, bool resized, int32_t s,
                                                       float per_source, int32_t out_size) {
  if (!resized) return {s, s + 1};
  // Sources within taps / 2 of a position are read (nearest: the one below); one more on either
  // side for rounding, of positions below 2^20 (kPatchMaxSide).
  const float reach = taps == 4 ? 2.0f : 1.0f;
  const float centre = static_cast<float>(s) + 0.5f;
  const int32_t begin = static_cast<int32_t>((centre - reach) * per_source - 0.5f) - 2;
  const int32_t end = static_cast<int32_t>((centre + reach) * per_source - 0.5f) + 3;
  return {begin < 0 ? 0 : begin, end < out_size ? end : out_size};
}

// Whether output i reads source s, and with which weight: clamped taps add up.
struct SourceWeight {
  bool reads;
  float w;
};

__device__ __forceinline__ SourceWeight weight_of(Resample mode, int taps, bool resized, int32_t i,
                                                  float scale, int32_t s, int32_t in_size) {
  const ResampleTap tap = resample_tap(mode, resized, i, scale, in_size);
  SourceWeight found{false, 0.0f};
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const int32_t at = tap.first + t;
    const int32_t source = at < 0 ? 0 : at < in_size ? at : in_size - 1;
    if (t < taps && source == s) {
      found.reads = true;
      found.w += tap.w[t];
    }
  }
  return found;
}

template <class Grad>
__global__ void C2F_BOUNDS(kPatchThreads)
    extract_patches_backward_kernel(const __grid_constant__ PatchBackwardArgs a) {
  const int64_t elem = static_cast<int64_t>(blockIdx.x) * kPatchThreads + threadIdx.x;
  const int64_t plane = a.H * a.W;
  if (elem >= a.B * a.channels * plane) return;  // no barriers in this kernel
  const int64_t b = elem / (a.channels * plane);
  const int32_t c = static_cast<int32_t>(elem / plane - b * a.channels);
  const int64_t in_plane = elem % plane;
  const int64_t y = in_plane / a.W, x = in_plane - y * a.W;

  const Image& grad = a.grad_patches;
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  const int32_t side = static_cast<int32_t>(grad.W);
  const bool resized = side != k;
  const int taps = resample_taps(a.mode, resized);
  const float scale = resize_scale(k, side), per_source = resize_scale(side, k);
  const Grad* channel = static_cast<const Grad*>(grad.data) + (a.first_channel + c) * grad.stride_c;

  float sum = 0.0f;
  const int32_t num = windows_of_image(a.windows, b);
  for (int32_t j = 0; j < num; ++j) {
    const Origin origin = origin_of(a.windows, b, j, a.H, a.W);
    if (!origin.used || y < origin.y || y >= origin.y + int64_t{k} || x < origin.x ||
        x >= origin.x + int64_t{k}) {
      continue;
    }
    const int32_t sy = static_cast<int32_t>(y - origin.y), sx = static_cast<int32_t>(x - origin.x);
    const OutputRange ys = outputs_reading(taps, resized, sy, per_source, side);
    const OutputRange xs = outputs_reading(taps, resized, sx, per_source, side);
    const Grad* patch = channel + (b * a.windows.n + j) * grad.stride_b;
    float of_window = 0.0f;
    for (int32_t v = ys.begin; v < ys.end; ++v) {
      const SourceWeight wy = weight_of(a.mode, taps, resized, v, scale, sy, k);
      if (!wy.reads) continue;
      float of_row = 0.0f;
      for (int32_t u = xs.begin; u < xs.end; ++u) {
        const SourceWeight wx = weight_of(a.mode, taps, resized, u, scale, sx, k);
        if (!wx.reads) continue;
        const float value = to_float(patch[v * grad.stride_y + u * grad.stride_x]);
        of_row = fmaf(value, wx.w, of_row);
      }
      of_window = fmaf(of_row, wy.w, of_window);
    }
    sum = fmaf(of_window, a.gain[c], sum);
  }
  a.grad_image[((b * a.C + a.first_channel + c) * a.H + y) * a.W + x] = sum;
}

}  // namespace c2f::cuda
