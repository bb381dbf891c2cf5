// p_f, the fine network's probability of a small object, for the pixels of a tile: gathered from
// the windows that reach the tile, in slot order, so that sums come out the same every time.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/merge_rule.h"
#include "aggregate_args.h"
#include "axis.cuh"
#include "element.cuh"
#include "window_list.cuh"

namespace c2f::cuda {

// Rows [y0, y0 + height) and columns [x0, x0 + width) of image b. Pixels are numbered row by row,
// with 1 << stride_log2 columns; columns past the width do not exist.
struct MergeTile {
  int64_t b;
  int32_t y0, x0, height, width;
  int32_t stride_log2;

  __device__ __forceinline__ int row(int pixel) const { return pixel >> stride_log2; }
  __device__ __forceinline__ int column(int pixel) const {
    return pixel & ((1 << stride_log2) - 1);
  }
};

// Row and column of a tile among those of its owner: an image, or a slot of the batch.
struct TileNumber {
  int32_t owner, y, x;

  __device__ __forceinline__ TileNumber(const MergeArgs& a, int32_t tile) {
    const int32_t row_of_all = a.by_tiles_x.quotient(tile);
    owner = a.by_tiles_y.quotient(row_of_all);
    y = row_of_all - owner * a.tiles_y;
    x = tile - row_of_all * a.tiles_x;
  }
};

// The windows of an image.
struct ImageWindows {
  int64_t first;  // slot of the batch
  int32_t num;

  __device__ __forceinline__ ImageWindows(const MergeArgs& a, int64_t b)
      : first(b * a.windows.n), num(windows_of_image(a.windows, b)) {}
  // Slot j, below the number of slots.
  __device__ __forceinline__ Origin at(const MergeArgs& a, int32_t j) const {
    const int32_t* origin = a.windows.origins + 2 * (first + j);
    const int32_t y = origin[0], x = origin[1];
    return {y, x, j < num && (y | x) >= 0 && y <= a.last_y && x <= a.last_x};
  }
};

// Whether a window in use covers any pixel of the tile.
__device__ __forceinline__ bool reaches(const MergeArgs& a, const Origin& origin,
                                        const MergeTile& tile) {
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  return origin.used && origin.y < tile.y0 + tile.height && origin.y + k > tile.y0 &&
         origin.x < tile.x0 + tile.width && origin.x + k > tile.x0;
}

// The slots whose windows reach a block's tile, as bits.
struct WindowVotes {
  uint32_t first;  // of the first slots
  uint32_t of_warp[2][kMergeThreads / kWarpSize];
};

// The bits of the slots from `first` on. Called by whole warps.
__device__ __forceinline__ uint32_t vote_of_warp(const MergeArgs& a, const ImageWindows& windows,
                                                 const MergeTile& tile, int32_t first) {
  const int32_t j = first + lane_of_thread();
  const bool listed = j < a.windows.n && reaches(a, windows.at(a, j), tile);
  return __ballot_sync(kWarp, listed);  // `first` is the same in all lanes
}

// Calls body(slot, origin) for each window that reaches the tile, in slot order; returns whether
// there is one, the same answer in all threads. Called by all threads of the block, after one of
// its warps has voted on the first slots and a barrier has followed.
template <class Body>
__device__ __forceinline__ bool for_windows(const MergeArgs& a, const MergeTile& tile,
                                            const ImageWindows& windows, WindowVotes& votes,
                                            const Body& body) {
  uint32_t any = 0;
  int32_t first = 0, turn = 0;
  do {
    const uint32_t* words = &votes.first;
    int count = 1;
    if (windows.num > kWarpSize) {
      uint32_t* of_warp = votes.of_warp[turn];
      turn ^= 1;
      const uint32_t own = vote_of_warp(a, windows, tile, first + kWarpSize * warp_of_thread());
      if (lane_of_thread() == 0) of_warp[warp_of_thread()] = own;
      // All threads get here, as the loop has the same bounds in all of them; from here on the
      // votes are complete. The buffer written next is that of the turn before: whoever read it
      // has done so before this barrier.
      __syncthreads();
      words = of_warp;
      count = static_cast<int>(blockDim.x) / kWarpSize;
    }
    for (int w = 0; w < count; ++w, first += kWarpSize) {
      const uint32_t word = words[w];
      any |= word;
      for (uint32_t left = word; left != 0; left &= left - 1) {
        const int32_t slot = first + __ffs(left) - 1;
        body(slot, windows.at(a, slot));
      }
    }
  } while (first < windows.num);
  return any != 0;
}

// The pixels of a tile that a thread works on: rows [row, row + rows) of one column, at most
// `most`. They share their taps along x and, mostly, the source rows they lie between.
struct ThreadPixels {
  int32_t row, column, rows, most;

  __device__ __forceinline__ ThreadPixels(const MergeTile& tile, int32_t most_)
      : row(tile.row(threadIdx.x) * most_),
        column(tile.column(threadIdx.x)),
        rows(column < tile.width ? min(tile.height - row, most_) : 0),
        most(most_) {}
};

// The float32 just below 0.5: p_f >= 0.5 is p_f > this.
constexpr float kBelowHalf = 0x1.fffffep-2f;

// What the fine network says of a thread's pixels: the foreground logit where a single window
// covers the pixel, the mean of the windows' probabilities where several do, NaN where none counts.
struct Foreground {
  float value[kRowsOfThread];
  float bound[kRowsOfThread];  // p_f >= 0.5 where the value is above it: a logit needs no sigmoid

  __device__ __forceinline__ bool covered(int r) const { return value[r] == value[r]; }
  __device__ __forceinline__ bool is_small(int r) const { return value[r] > bound[r]; }
  __device__ __forceinline__ bool is_mean(int r) const { return bound[r] == kBelowHalf; }
  __device__ __forceinline__ float p_f(int r) const {
    return is_mean(r) ? value[r] : sigmoid(value[r]);
  }
};

// A column of a window's pixels. Pixels between the same two rows of fine logits share what is
// interpolated along x. If only one axis is resized, the other has scale 1: every tap is the pixel
// itself, with weight 1 and without a neighbour.
template <class T>
class FineColumn {
 public:
  __device__ __forceinline__ FineColumn(const MergeArgs& a, int64_t patch, int32_t dx)
      : y_(a.fine.H, static_cast<int32_t>(a.windows.window_px), a.fine_scale_y) {
    const Axis x(a.fine.W, static_cast<int32_t>(a.windows.window_px), a.fine_scale_x);
    resized_ = x.resized() || y_.resized();
    const BilinearTap tap = bilinear_tap(dx, x.scale, x.in);
    w1_ = tap.w1;
    constexpr int64_t kElem = sizeof(T);
    row_bytes_ = a.fine.stride_y * kElem;
    right_bytes_ = x.to_second(tap.i0) * a.fine.stride_x * kElem;
    channel_bytes_ = a.fine.stride_c * kElem;
    two_channels_ = a.fine.C == 2;
    left_ = static_cast<const unsigned char*>(a.fine.data) +
            (patch * a.fine.stride_b + tap.i0 * a.fine.stride_x) * kElem;
  }

  // Foreground logits of `rows` rows from dy on. Rows outside the window get any value.
  __device__ __forceinline__ void sample(int32_t dy, int32_t rows,
                                         float (&value)[kRowsOfThread]) const {
    if (!resized_) {
      const unsigned char* at = left_ + dy * row_bytes_;
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r, at += row_bytes_) {
        if (r >= rows) break;
        const bool inside = static_cast<uint32_t>(dy + r) < static_cast<uint32_t>(y_.in);
        value[r] = inside ? logit(at) : NAN;
      }
      return;
    }
    // The two rows of logits held at present, and which row the upper one is.
    float top = 0.0f, bottom = 0.0f, above = 0.0f;
    const unsigned char* at = left_;
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      if (r >= rows) break;
      // As bilinear_tap, except that the row is looked up only when it changes.
      const float src = fmaxf(source_position(dy + r, y_.scale), 0.0f);
      float w1 = r == 0 ? 0.0f : src - above;
      if (r == 0 || w1 >= 1.0f) {
        const int32_t row = min(static_cast<int32_t>(src), y_.in - 1);
        const float place = static_cast<float>(row);
        if (r == 0 || place != above) {
          if (r != 0 && y_.resized() && place == above + 1.0f) {
            top = bottom;
            at += row_bytes_;
          } else {
            at = left_ + row * row_bytes_;
            top = along(at);
          }
          bottom = y_.to_second(row) != 0 ? along(at + row_bytes_) : top;
          above = place;
        }
        w1 = fminf(src - place, 1.0f);
      }
      // As bilinear_value computes it.
      value[r] = fmaf(bottom, w1, top * (1.0f - w1));
    }
  }

 private:
  __device__ __forceinline__ float element(const unsigned char* at) const {
    return to_float(*reinterpret_cast<const T*>(at));
  }
  __device__ __forceinline__ float logit(const unsigned char* at) const {
    const float first = element(at);
    return two_channels_ ? element(at + channel_bytes_) - first : first;
  }
  // A row interpolated along x.
  __device__ __forceinline__ float along(const unsigned char* left) const {
    const unsigned char* right = left + right_bytes_;
    float p0 = element(left), p1 = element(right);
    if (two_channels_) {
      p0 = element(left + channel_bytes_) - p0;
      p1 = element(right + channel_bytes_) - p1;
    }
    return fmaf(p1, w1_, p0 * (1.0f - w1_));
  }

  Axis y_;
  const unsigned char* left_;  // of the first row and channel
  int64_t row_bytes_, right_bytes_, channel_bytes_;
  float w1_;
  bool resized_, two_channels_;
};

// Whether any window reaches the tile, the same answer in all threads. If one does, fills `out` for
// this thread's pixels. Pixels that a slot below `own_slot` covers are merged by another block and
// count as not covered here. To be called as for_windows is.
__device__ __forceinline__ bool find_foreground(const MergeArgs& a, const MergeTile& tile,
                                                const ImageWindows& windows,
                                                const ThreadPixels& pixels, int32_t own_slot,
                                                WindowVotes& votes, Foreground* out) {
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  int32_t covers[kRowsOfThread] = {};
  bool before = false, several = false;  // one window, or more, over this thread's pixels so far
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    out->value[r] = NAN;
    out->bound[r] = kBelowLogitOfHalf;
  }
  const bool any = for_windows(a, tile, windows, votes, [&](int32_t slot, const Origin& origin) {
    const int32_t dy = tile.y0 + pixels.row - origin.y, dx = tile.x0 + pixels.column - origin.x;
    const int32_t first = max(-dy, 0), end = min(k - dy, pixels.rows);  // rows that it covers
    if (dx < 0 || dx >= k || first >= end) return;
    const uint32_t rows = (1u << end) - (1u << first);  // as bits
    float logit[kRowsOfThread] = {NAN, NAN, NAN, NAN};
    const int64_t patch = windows.first + slot;
    if (slot >= own_slot) {
      if (a.fine.dtype == DType::kF32) {
        FineColumn<float>(a, patch, dx).sample(dy, pixels.most, logit);
      } else if (a.fine.dtype == DType::kF16) {
        FineColumn<F16>(a, patch, dx).sample(dy, pixels.most, logit);
      } else {
        FineColumn<BF16>(a, patch, dx).sample(dy, pixels.most, logit);
      }
    }
    if (!before) {
      before = true;
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r) {
        const bool covered = (rows & 1u << r) != 0;
        out->value[r] = covered ? logit[r] : NAN;
        covers[r] = covered ? 1 : 0;
      }
      return;
    }
    several = true;
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      if ((rows & 1u << r) == 0) continue;
      float& value = out->value[r];
      const float sum = (covers[r] == 1 ? sigmoid(value) : value) + sigmoid(logit[r]);
      value = covers[r] == 0 ? logit[r] : sum;
      ++covers[r];
    }
  });
  if (several) {
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      if (covers[r] <= 1) continue;
      out->value[r] /= static_cast<float>(covers[r]);
      out->bound[r] = kBelowHalf;
    }
  }
  return any;
}

}  // namespace c2f::cuda
