// Which slots of a window list hold a window. The host never reads the list, so kernels guard
// memory: a count above the number of slots means all of them, and a window that leaves the image
// counts as an unused slot.
#pragma once

#include <cstdint>

#include "../common/params.h"
#include "gpu.cuh"

namespace c2f::cuda {

struct Origin {
  int32_t y, x;
  bool used;
};

// The image and slot of patch 0 .. B * n - 1 of the batch. Below 2^31 since every patch has a block
// of the launch, and so divided in 32 bits: a 64-bit division is a call that every block would wait
// for.
struct Slot {
  int64_t b;
  int32_t j;
};

__device__ __forceinline__ Slot slot_of(const WindowList& windows, int64_t patch) {
  const uint32_t at = static_cast<uint32_t>(patch), n = static_cast<uint32_t>(windows.n);
  const uint32_t b = at / n;
  return {b, static_cast<int32_t>(at - b * n)};
}

__device__ __forceinline__ int32_t windows_of_image(const WindowList& windows, int64_t b) {
  const int32_t num = windows.num[b];
  return num < 0 ? 0 : num < windows.n ? num : static_cast<int32_t>(windows.n);
}

// The window in slot j of image b, of size H x W; j is below the image's number of windows.
__device__ __forceinline__ Origin origin_of(const WindowList& windows, int64_t b, int64_t j,
                                            int64_t H, int64_t W) {
  const int32_t* at = windows.origins + 2 * (b * windows.n + j);
  const int32_t y = at[0], x = at[1];
  const int64_t k = windows.window_px;
  return {y, x, y >= 0 && x >= 0 && y + k <= H && x + k <= W};
}

}  // namespace c2f::cuda
