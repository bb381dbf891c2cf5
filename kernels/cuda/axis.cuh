// Bilinear taps along one axis.
#pragma once

#include <cstdint>

#include "../common/bilinear.h"
#include "gpu.cuh"

namespace c2f::cuda {

struct Axis {
  int32_t in, out;
  float scale;

  __device__ __forceinline__ Axis(int64_t in_size, int64_t out_size)
      : in(static_cast<int32_t>(in_size)),
        out(static_cast<int32_t>(out_size)),
        scale(resize_scale(in_size, out_size)) {}
  // With the scale that the host has computed.
  __device__ __forceinline__ Axis(int64_t in_size, int32_t out_size, float scale_)
      : in(static_cast<int32_t>(in_size)), out(out_size), scale(scale_) {}
  __device__ __forceinline__ bool resized() const { return in != out; }
  __device__ __forceinline__ BilinearTap tap(int32_t dst) const {
    return resized() ? bilinear_tap(dst, scale, in) : unresized_tap(dst);
  }
  // Distance from a first tap to its second: 0 at the border and on an axis that is not resized.
  __device__ __forceinline__ int32_t to_second(int32_t first) const {
    return resized() && first < in - 1 ? 1 : 0;
  }
};

}  // namespace c2f::cuda
