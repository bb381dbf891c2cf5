// p_f, the fine network's probability of a small object, for the pixels of a tile: gathered from
// the windows that reach the tile, in slot order, so that sums come out the same every time.
#pragma once

#include <cstdint>

#include "../common/merge_rule.h"
#include "aggregate_args.h"
#include "axis.cuh"
#include "element.cuh"
#include "gpu.cuh"
#include "window_list.cuh"

namespace c2f::cuda {

// Rows [y0, y0 + height) and columns [x0, x0 + width) of image b. A thread works on the pixels
// threadIdx.x, threadIdx.x + kMergeThreads, ... of the tile, numbered row by row with
// 1 << stride_log2 columns; those past the width are not there.
struct MergeTile {
  int64_t b;
  int32_t y0, x0, height, width;
  int32_t stride_log2;

  __device__ __forceinline__ int pixels() const { return height << stride_log2; }
  __device__ __forceinline__ int row(int pixel) const { return pixel >> stride_log2; }
  __device__ __forceinline__ int column(int pixel) const {
    return pixel & ((1 << stride_log2) - 1);
  }
  __device__ __forceinline__ bool holds(int pixel) const {
    return pixel < pixels() && column(pixel) < width;
  }
};

// Shared memory of a block. `value` of a pixel: the fine logit where one window covers it, else the
// sum of the windows' probabilities; only the thread that works on a pixel writes its entries, and
// who else reads them comes after a barrier.
struct ForegroundTile {
  float value[kTilePixels];
  int32_t covers[kTilePixels];
  // Windows that reach the tile, out of the slots looked at together.
  int32_t slot[kMergeThreads], y[kMergeThreads], x[kMergeThreads];
  int32_t warp_count[kMergeThreads / kWarpSize];

  // No window covers the pixels of this thread.
  __device__ __forceinline__ void clear(const MergeTile& tile) {
    for (int p = threadIdx.x; p < tile.pixels(); p += kMergeThreads) {
      value[p] = 0.0f;
      covers[p] = 0;
    }
  }
  __device__ __forceinline__ bool covered(int pixel) const {
    return covers[pixel] > 0 && value[pixel] == value[pixel];
  }
  // p_f >= 0.5 of a covered pixel: by the sign of its logit where one window covers it.
  __device__ __forceinline__ bool foreground(int pixel) const {
    return covers[pixel] == 1 ? sigmoid_at_least_half(value[pixel]) : p_f(pixel) >= 0.5f;
  }
  // Of a covered pixel.
  __device__ __forceinline__ float p_f(int pixel) const {
    return covers[pixel] == 1 ? sigmoid(value[pixel])
                              : value[pixel] / static_cast<float>(covers[pixel]);
  }
};

// What a column of a window's pixels is made of: the columns of its fine logits beside it.
template <class T>
class FineColumn {
 public:
  __device__ __forceinline__ FineColumn(const Image& fine, int64_t patch, BilinearTap x,
                                        bool resized)
      : stride_y_(fine.stride_y),
        stride_c_(fine.C == 1 ? 0 : fine.stride_c),
        w1_x_(x.w1),
        resized_(resized) {
    const T* base = static_cast<const T*>(fine.data) + patch * fine.stride_b;
    left_ = base + x.i0 * fine.stride_x;
    right_ = base + x.i1 * fine.stride_x;
  }

  // Foreground logit of the pixel in a row.
  __device__ __forceinline__ float sample(BilinearTap y) const {
    const int64_t top = y.i0 * stride_y_;
    const float corner = logit(left_ + top);
    if (!resized_) return corner;
    const int64_t bottom = y.i1 * stride_y_;
    return bilinear_value(corner, logit(right_ + top), logit(left_ + bottom),
                          logit(right_ + bottom), y.w1, w1_x_);
  }

 private:
  __device__ __forceinline__ float logit(const T* at) const {
    const float first = to_float(*at);
    return stride_c_ == 0 ? first : to_float(at[stride_c_]) - first;
  }

  const T *left_, *right_;  // of the first row and channel
  int64_t stride_y_, stride_c_;
  float w1_x_;
  bool resized_;
};

// Whether a window that is in use has pixels of the tile.
__device__ __forceinline__ bool reaches(const Origin& origin, int64_t window_px,
                                        const MergeTile& tile) {
  return origin.used && origin.y < tile.y0 + tile.height && origin.y + window_px > tile.y0 &&
         origin.x < tile.x0 + tile.width && origin.x + window_px > tile.x0;
}

// Lists, in slot order, those of the slots first .. first + kMergeThreads - 1 whose windows reach
// the tile; returns how many. Called by all threads of the block.
__device__ __forceinline__ int list_windows(const MergeArgs& a, const MergeTile& tile,
                                            int32_t first, int32_t num, ForegroundTile& out) {
  const int32_t j = first + static_cast<int32_t>(threadIdx.x);
  Origin origin{0, 0, false};
  if (j < num) origin = origin_of(a.windows, tile.b, j, a.coarse.H, a.coarse.W);
  const bool listed = reaches(origin, a.windows.window_px, tile);
  // All lanes of all warps are here: the loop around this has the same bounds in all threads.
  const unsigned votes = __ballot_sync(kWarp, listed);
  if (lane_of_thread() == 0) out.warp_count[warp_of_thread()] = __popc(votes);
  __syncthreads();  // all counts are there, and nobody reads the list of the slots before
  int before = 0, total = 0;
#pragma unroll
  for (int w = 0; w < kMergeThreads / kWarpSize; ++w) {
    if (w < warp_of_thread()) before += out.warp_count[w];
    total += out.warp_count[w];
  }
  if (listed) {
    const int at = before + __popc(votes & lanes_below());
    out.slot[at] = j;
    out.y[at] = origin.y;
    out.x[at] = origin.x;
  }
  __syncthreads();  // the list is complete
  return total;
}

// Adds a window to the pixels of this thread, all of which lie in one column of the tile: rows of
// tiles divide the threads of a block.
template <class T>
__device__ __forceinline__ void add_window(const MergeArgs& a, const MergeTile& tile, int32_t slot,
                                           int32_t top, int32_t left, ForegroundTile& out,
                                           int32_t* first_slot) {
  const int32_t k = static_cast<int32_t>(a.windows.window_px), thread = threadIdx.x;
  const int32_t dx = tile.x0 + tile.column(thread) - left;
  if (dx < 0 || dx >= k || tile.column(thread) >= tile.width) return;
  const Axis y(a.fine.H, k, a.fine_scale_y), x(a.fine.W, k, a.fine_scale_x);
  const FineColumn<T> fine(a.fine, tile.b * a.windows.n + slot, x.tap(dx),
                           y.resized() || x.resized());
  for (int p = thread; p < tile.pixels(); p += kMergeThreads) {
    const int32_t dy = tile.y0 + tile.row(p) - top;
    if (dy < 0 || dy >= k) continue;
    const int32_t covers = out.covers[p];
    float value = fine.sample(y.tap(dy));
    if (covers == 0) {
      if (first_slot != nullptr) first_slot[p] = slot;
    } else {
      const float before = out.value[p];
      value = (covers == 1 ? sigmoid(before) : before) + sigmoid(value);
    }
    out.value[p] = value;
    out.covers[p] = covers + 1;
  }
}

// Whether any window reaches the tile. Where one does, fills `out` for all pixels of the tile, and
// `first_slot` (or nullptr) for those that are covered. Called by all threads of the block.
__device__ __forceinline__ bool find_foreground(const MergeArgs& a, const MergeTile& tile,
                                                ForegroundTile& out, int32_t* first_slot) {
  const int32_t num = windows_of_image(a.windows, tile.b);
  bool any = false;
  for (int32_t first = 0; first < num; first += kMergeThreads) {
    const int listed = list_windows(a, tile, first, num, out);
    if (listed == 0) continue;
    if (!any) out.clear(tile);
    any = true;
    for (int i = 0; i < listed; ++i) {
      const int32_t slot = out.slot[i], top = out.y[i], left = out.x[i];
      if (a.fine.dtype == DType::kF32) {
        add_window<float>(a, tile, slot, top, left, out, first_slot);
      } else if (a.fine.dtype == DType::kF16) {
        add_window<F16>(a, tile, slot, top, left, out, first_slot);
      } else {
        add_window<BF16>(a, tile, slot, top, left, out, first_slot);
      }
    }
  }
  return any;
}

}  // namespace c2f::cuda
