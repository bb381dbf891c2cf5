// Small-object pixels of every bin, and labels: the part that count_windows and select_windows
// share.
//
// One block counts one tile of bins, in shared memory, and alone writes them: nothing needs to be
// zero beforehand, and no sum depends on an order. Coarse logits are upsampled by corner agreement:
// pixels with the same first taps form a cell; where the source pixels at its corners have the same
// first argmax with finite values, all its pixels have that label, for weights are not negative and
// every rounding step is monotone (kernels/cpu/coarse_labels.h). Columns of the remaining, mixed
// cells are listed and evaluated densely, so that no lane idles though boundaries are thin.
#pragma once

#include "../common/bilinear.h"
#include "argmax.cuh"
#include "axis.cuh"
#include "cell_counts_args.h"

namespace c2f::cuda {

// What all pixels of a cell are: a label, with kSmall if it is one of C, or kMixed.
constexpr int32_t kMixed = -1, kSmall = kMaxClasses;

// The tile of this block, and its part of shared memory.
struct Tile {
  int64_t b;
  int32_t row;  // of tiles
  int32_t first_bin_y, first_bin_x, bins_y, bins_x;
  int32_t y0, x0, height, width;  // pixels
  int32_t* bins;                  // [bins_y, bins_x]
  uint16_t *column_bin, *row_bin, *column_tap, *row_first, *entries;
  float *column_w1, *row_w1;
  int16_t *points, *cells;

  __device__ Tile(const CellCountsArgs& a, unsigned char* shared) {
    const int32_t row_of_all = static_cast<int32_t>(blockIdx.x) / a.x.tiles;
    const int32_t image = row_of_all / a.y.tiles;
    b = image;
    row = row_of_all - image * a.y.tiles;
    first_bin_y = row * a.y.tile_bins;
    first_bin_x = (static_cast<int32_t>(blockIdx.x) - row_of_all * a.x.tiles) * a.x.tile_bins;
    bins_y = min(a.y.tile_bins, a.y.bins - first_bin_y);
    bins_x = min(a.x.tile_bins, a.x.bins - first_bin_x);
    y0 = a.y.bin_start(first_bin_y);
    x0 = a.x.bin_start(first_bin_x);
    height = a.y.bin_start(first_bin_y + bins_y) - y0;
    width = a.x.bin_start(first_bin_x + bins_x) - x0;
    bins = reinterpret_cast<int32_t*>(shared);
    column_bin = reinterpret_cast<uint16_t*>(shared + a.layout.column_bin);
    row_bin = reinterpret_cast<uint16_t*>(shared + a.layout.row_bin);
    column_tap = reinterpret_cast<uint16_t*>(shared + a.layout.column_tap);
    row_first = reinterpret_cast<uint16_t*>(shared + a.layout.row_first);
    column_w1 = reinterpret_cast<float*>(shared + a.layout.column_w1);
    row_w1 = reinterpret_cast<float*>(shared + a.layout.row_w1);
    points = reinterpret_cast<int16_t*>(shared + a.layout.points);
    cells = reinterpret_cast<int16_t*>(shared + a.layout.cells);
    entries = reinterpret_cast<uint16_t*>(shared + a.layout.entries);
  }

  // Zeroes the bins and says which bin each row and column of pixels is in.
  __device__ void begin(const CellCountsArgs& a) const {
    for (int i = threadIdx.x; i < bins_y * bins_x; i += blockDim.x) bins[i] = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      column_bin[i] = static_cast<uint16_t>(a.x.bin_of(x0 + i) - first_bin_x);
    }
    for (int i = threadIdx.x; i < height; i += blockDim.x) {
      row_bin[i] = static_cast<uint16_t>(a.y.bin_of(y0 + i) - first_bin_y);
    }
  }

  // Adds `rows` times the members among the 32 pixels from column `from` on, which are those of the
  // lanes of this warp. Called by whole warps: every lane takes part in the vote, those past the
  // tile's width as well, with the last column's bin.
  __device__ __forceinline__ void add(int32_t row, int32_t from, unsigned members,
                                      int32_t rows) const {
    if (members == 0) return;  // the same in all lanes
    const int lane = lane_of_thread();
    const int32_t column = min(from + lane, width - 1);
    const int32_t bin = column_bin[column];
    // Lanes where a bin begins count its members up to the next such lane.
    const bool begins = lane == 0 || column_bin[min(from + lane - 1, width - 1)] != bin;
    const unsigned starts = __ballot_sync(kWarp, begins);
    if (begins) {
      const unsigned later = lane == 31 ? 0u : starts >> (lane + 1);
      const int length = later == 0 ? 32 - lane : __ffs(later);
      const unsigned mine = length == 32 ? kWarp : ((1u << length) - 1u) << lane;
      const int count = __popc(members & mine);
      if (count > 0) atomicAdd(&bins[row_bin[row] * bins_x + bin], count * rows);
    }
  }

  __device__ void store(const CellCountsArgs& a) const {
    int32_t* out = a.bins + b * a.y.bins * a.x.bins;
    for (int i = threadIdx.x; i < bins_y * bins_x; i += blockDim.x) {
      const int32_t at_y = first_bin_y + i / bins_x, at_x = first_bin_x + i % bins_x;
      out[static_cast<int64_t>(at_y) * a.x.bins + at_x] = bins[i];
    }
  }
};

// Pixels that need no interpolation: T is the type of a label, or that of a logit.
template <class T, int N, CellKind kKind>
__device__ __forceinline__ void count_pixels(const CellCountsArgs& a, const Tile& tile) {
  const T* image = static_cast<const T*>(a.seg.data) + tile.b * a.seg.stride_b;
  uint8_t* labels =
      a.labels == nullptr ? nullptr : a.labels + tile.b * a.y.size_px * int64_t{a.x.size_px};
  const int across = (tile.width + 31) / 32;
  for (int item = warp_of_thread(); item < tile.height * across; item += blockDim.x / 32) {
    const int32_t row = item / across, from = item % across * 32;
    const int32_t y = tile.y0 + row, column = from + lane_of_thread();
    const int32_t x = tile.x0 + column;
    bool member = false;
    if (column < tile.width) {
      const T* pixel = image + y * a.seg.stride_y + x * a.seg.stride_x;
      uint8_t label;
      if constexpr (kKind == CellKind::kLabels) {
        const int64_t id = *pixel;
        label = static_cast<uint8_t>(id);
        member = id >= 0 && id < kMaxClasses && a.small.has(static_cast<int32_t>(id));
      } else {
        const auto found =
            first_argmax<T, N>(pixel, a.seg.stride_n, static_cast<int32_t>(a.seg.N), a.packed);
        label = static_cast<uint8_t>(found.label);
        member = a.small.has(found.label);
      }
      if (labels != nullptr) labels[y * int64_t{a.x.size_px} + x] = label;
    }
    // Items are handed out to whole warps: all lanes are here.
    tile.add(row, from, __ballot_sync(kWarp, member), 1);
  }
}

// Logits taken to full size.
template <class T, int N>
class UpsampledTile {
 public:
  __device__ UpsampledTile(const CellCountsArgs& a, const Tile& tile)
      : a_(a),
        tile_(tile),
        y_(a.seg.h, a.y.size_px, a.scale_y),
        x_(a.seg.w, a.x.size_px, a.scale_x),
        image_(static_cast<const T*>(a.seg.data) + tile.b * a.seg.stride_b),
        labels_(a.labels == nullptr ? nullptr
                                    : a.labels + tile.b * a.y.size_px * int64_t{a.x.size_px}) {
    top_ = y_.tap(tile.y0).i0;
    left_ = x_.tap(tile.x0).i0;
    // Source pixels beside each other that a cell has: two along an axis that is resized.
    right_ = x_.resized() ? 1 : 0;
    cell_rows_ = y_.tap(tile.y0 + tile.height - 1).i0 - top_ + 1;
    point_columns_ = x_.tap(tile.x0 + tile.width - 1).i0 - left_ + 1 + right_;
    below_ = y_.resized() ? point_columns_ : 0;
    points_ = cell_rows_ * point_columns_ + below_;
  }

  // Taps of the tile's columns and rows: first ones, weights of second ones; and which row of
  // pixels a row of cells begins with.
  __device__ void begin() const {
    const int32_t columns = (tile_.width + kQuad - 1) / kQuad * kQuad;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
      const BilinearTap tap = x_.tap(tile_.x0 + min(i, tile_.width - 1));
      tile_.column_tap[i] = static_cast<uint16_t>(tap.i0 - left_);
      tile_.column_w1[i] = tap.w1;
    }
    // Every entry of row_first is written by the one thread in whose step over cell rows it lies.
    for (int i = threadIdx.x; i < tile_.height; i += blockDim.x) {
      const BilinearTap tap = y_.tap(tile_.y0 + i);
      const int32_t before = i == 0 ? -1 : y_.tap(tile_.y0 + i - 1).i0 - top_;
      for (int32_t c = before + 1; c <= tap.i0 - top_; ++c) {
        tile_.row_first[c] = static_cast<uint16_t>(i);
      }
      tile_.row_w1[i] = tap.w1;
    }
    if (threadIdx.x == 0) tile_.row_first[cell_rows_] = static_cast<uint16_t>(tile_.height);
  }

  // Labels of the source pixels under the tile, -1 where the best logit is not finite.
  __device__ void label_points() const {
    const int32_t last_y = y_.in - 1, last_x = x_.in - 1;
    for (int i = threadIdx.x; i < points_; i += blockDim.x) {
      const int32_t row = i / point_columns_;
      const int32_t y = min(top_ + row, last_y);
      const int32_t x = min(left_ + i - row * point_columns_, last_x);
      const auto found =
          first_argmax<T, N>(at(y, x), a_.seg.stride_n, static_cast<int32_t>(a_.seg.N), a_.packed);
      tile_.points[i] = static_cast<int16_t>(found.finite() ? found.label : -1);
    }
  }

  // Whether the corners of a cell agree. It has the number of its first corner; the last column of
  // points begins none where there are two beside each other, and nobody asks what is found there.
  __device__ void label_cells() const {
    for (int i = threadIdx.x; i < cell_rows_ * point_columns_; i += blockDim.x) {
      const int16_t* upper = tile_.points + i;
      const int16_t* lower = upper + below_;
      const int32_t right = i + below_ + right_ < points_ ? right_ : 0;
      const int32_t label = upper[0];
      const bool same = upper[right] == label && lower[0] == label && lower[right] == label;
      int32_t found = kMixed;
      if (same && label >= 0) found = a_.small.has(label) ? label | kSmall : label;
      tile_.cells[i] = static_cast<int16_t>(found);
    }
  }

  // Labels and counts of the cells whose corners agree; lists the columns of the others. A thread
  // takes the pixels of a quad in all rows of a row of cells.
  __device__ void count_agreed(int32_t* num_entries) const {
    const int32_t across = (tile_.width + kQuad - 1) / kQuad;
    for (int i = threadIdx.x; i < cell_rows_ * across; i += blockDim.x) {
      const int32_t cell = i / across, column = (i - cell * across) * kQuad;
      const unsigned inside = (1u << min(kQuad, tile_.width - column)) - 1u;
      uint32_t word = 0;
      unsigned mixed = 0, members = 0;
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        const int32_t found = tile_.cells[cell * point_columns_ + tile_.column_tap[column + j]];
        word |= (static_cast<uint32_t>(found) & 255u) << (8 * j);
        mixed |= (found < 0 ? 1u : 0u) << j;
        members |= (found >= kSmall ? 1u : 0u) << j;
      }
      mixed &= inside;
      members &= inside;
      if (labels_ != nullptr) store_labels(cell, column, word, inside & ~mixed);
      if (members != 0) add_members(cell, column, members);
      if (mixed == 0) continue;
      int32_t entry = atomicAdd(num_entries, __popc(mixed));
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        if ((mixed >> j & 1u) == 0) continue;
        tile_.entries[entry++] = static_cast<uint16_t>(cell << 8 | (column + j));
      }
    }
  }

  // The columns of mixed cells, one per thread.
  __device__ void count_mixed(int32_t num_entries) const {
    for (int32_t i = threadIdx.x; i < num_entries; i += blockDim.x) {
      const int32_t cell = tile_.entries[i] >> 8, column = tile_.entries[i] & 255;
      const int32_t row1 = tile_.row_first[cell + 1];
      for (int32_t row = tile_.row_first[cell]; row < row1; row += kRows) {
        evaluate(cell, column, row, min(row1 - row, kRows));
      }
    }
  }

 private:
  static constexpr int kRows = 4;  // pixels of a column evaluated at once: those of a cell at x4

  __device__ __forceinline__ const T* at(int32_t y, int32_t x) const {
    return image_ + y * a_.seg.stride_y + x * a_.seg.stride_x;
  }
  __device__ __forceinline__ uint8_t* label_at(int32_t row, int32_t column) const {
    return labels_ + (tile_.y0 + row) * int64_t{a_.x.size_px} + tile_.x0 + column;
  }

  // The bytes of `word` that are `wanted`, in all rows of a row of cells.
  __device__ __forceinline__ void store_labels(int32_t cell, int32_t column, uint32_t word,
                                               unsigned wanted) const {
    const int32_t width = a_.x.size_px, row0 = tile_.row_first[cell];
    uint8_t* out = label_at(row0, column);
    const uint8_t* end = out + int64_t{tile_.row_first[cell + 1] - row0} * width;
    const bool aligned = ((reinterpret_cast<uintptr_t>(out) | width) & 3) == 0;
    if (aligned && wanted == (1u << kQuad) - 1u) {
      for (; out != end; out += width) *reinterpret_cast<uint32_t*>(out) = word;
    } else if (wanted != 0) {
      for (; out != end; out += width) {
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          if (wanted >> j & 1u) out[j] = static_cast<uint8_t>(word >> (8 * j));
        }
      }
    }
  }

  // Counts the `members` of a quad in all rows of a row of cells, row of bins by row of bins.
  __device__ __forceinline__ void add_members(int32_t cell, int32_t column,
                                              unsigned members) const {
    const int32_t row1 = tile_.row_first[cell + 1];
    const int32_t first = tile_.column_bin[column];
    const bool one_bin = first == tile_.column_bin[min(column + kQuad, tile_.width) - 1];
    for (int32_t row = tile_.row_first[cell]; row < row1;) {
      int32_t end = row + 1;
      while (end < row1 && tile_.row_bin[end] == tile_.row_bin[row]) ++end;
      int32_t* bins = tile_.bins + tile_.row_bin[row] * tile_.bins_x;
      if (one_bin) {
        atomicAdd(bins + first, __popc(members) * (end - row));
      } else {
        for (int j = 0; j < kQuad; ++j) {
          if (members >> j & 1u) atomicAdd(bins + tile_.column_bin[column + j], end - row);
        }
      }
      row = end;
    }
  }

  // value = (w0y, w1y) . corners . (w0x, w1x), as the other backends round it; of pixels of a
  // column that lie in one cell.
  __device__ __forceinline__ void evaluate(int32_t cell, int32_t column, int32_t row,
                                           int32_t rows) const {
    const int32_t y = top_ + cell, x = left_ + tile_.column_tap[column];
    const T* p00 = at(y, x);
    const T* p10 = p00 + y_.to_second(y) * a_.seg.stride_y;
    const int64_t beside = x_.to_second(x) * a_.seg.stride_x;
    float w1[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) w1[r] = tile_.row_w1[row + min(r, rows - 1)];
    FirstArgmax found[kRows];
    const int32_t classes = N != 0 ? N : static_cast<int32_t>(a_.seg.N);
    const float wx1 = tile_.column_w1[column], wx0 = 1.0f - wx1;
#pragma unroll 2
    for (int32_t c = 0; c < classes; ++c) {
      const float top = fmaf(to_float(p00[beside]), wx1, to_float(p00[0]) * wx0);
      const float bottom = fmaf(to_float(p10[beside]), wx1, to_float(p10[0]) * wx0);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        found[r].offer(fmaf(bottom, w1[r], top * (1.0f - w1[r])), c);
      }
      p00 += a_.seg.stride_n;
      p10 += a_.seg.stride_n;
    }
    const int32_t bin = tile_.column_bin[column];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) continue;
      if (labels_ != nullptr) *label_at(row + r, column) = static_cast<uint8_t>(found[r].label);
      if (a_.small.has(found[r].label)) {
        atomicAdd(&tile_.bins[tile_.row_bin[row + r] * tile_.bins_x + bin], 1);
      }
    }
  }

  const CellCountsArgs& a_;
  const Tile& tile_;
  Axis y_, x_;
  const T* image_;
  uint8_t* labels_;
  int32_t top_, left_, cell_rows_, point_columns_, points_;
  int32_t right_, below_;  // from a point to the next one of its cell, 0 where there is none
};

// Counts the tile of this block and writes its bins, and the labels where they are wanted. Called
// by all threads of the block.
template <class T, int N, CellKind kKind>
__device__ __forceinline__ void count_cells(const CellCountsArgs& a, const Tile& tile) {
  tile.begin(a);
  if constexpr (kKind == CellKind::kUpsampled) {
    C2F_SHARED(int32_t, num_entries);
    const UpsampledTile<T, N> cells(a, tile);
    if (threadIdx.x == 0) num_entries = 0;
    cells.begin();
    cells.label_points();
    // Each barrier below is reached by all threads: nothing above or between returns or branches
    // around it. This one: tables, points and zeroed bins are read by other threads from here on.
    __syncthreads();
    cells.label_cells();
    // And so are cells.
    __syncthreads();
    cells.count_agreed(&num_entries);
    // The list is complete.
    __syncthreads();
    cells.count_mixed(num_entries);
  } else {
    // Tables and zeroed bins are read by other threads from here on.
    __syncthreads();
    count_pixels<T, N, kKind>(a, tile);
  }
  // The sums are complete.
  __syncthreads();
  tile.store(a);
}

}  // namespace c2f::cuda
