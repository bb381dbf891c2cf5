// Which slots of a window list hold a window. The host never reads the list, so kernels guard
// memory: a count above the number of slots means all of them, and a window that leaves the image
// counts as an unused slot.
#pragma once

#include <cstdint>

#include "../common/params.h"
#include "divider.h"
#include "gpu.cuh"

namespace c2f::cuda {

struct Origin {
  int32_t y, x;
  bool used;
};

// Which slot of which image a patch of the batch is, 0 .. B * n - 1; a launch has blocks for fewer
// than 2^31. `by_slots` divides by n.
struct Slot {
  int64_t b;
  int32_t j;
};

__device__ __forceinline__ Slot slot_of(const WindowList& windows, const Divider& by_slots,
                                        int32_t patch) {
  const int32_t b = by_slots.quotient(patch);
  return {b, patch - b * static_cast<int32_t>(windows.n)};
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
