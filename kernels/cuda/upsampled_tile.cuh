// Coarse logits taken to full size under one tile, by corner agreement.
//
// Pixels with the same first taps form a cell; where the source pixels at its corners have the same
// first argmax with finite values, all its pixels have that label, for weights are not negative and
// every rounding step is monotone (kernels/cpu/coarse_labels.h). The remaining, mixed cells are
// listed and evaluated densely, so that no lane idles though boundaries are thin; and of them only
// the classes that can be largest in the cell.
#pragma once

#include "../common/bilinear.h"
#include "argmax.cuh"
#include "tile.cuh"

namespace c2f::cuda {

// Slot i stands for the source pixel (top + i / pitch, left + i % pitch), a point, and for the cell
// whose first corner it is. Counts says which labels are counted, and adds up their pixels; and
// which pixels' labels are not this block's to store.
template <class T, int N, class Counts>
class UpsampledTile {
 public:
  __device__ UpsampledTile(const CoarseArgs& a, const Tile& tile, const Counts& counts)
      : a_(a),
        tile_(tile),
        counts_(counts),
        y_(a.seg.h, static_cast<int32_t>(a.H), a.scale_y),
        x_(a.seg.w, static_cast<int32_t>(a.W), a.scale_x),
        image_(static_cast<const T*>(a.seg.data) + tile.b * a.seg.stride_b),
        labels_(a.labels == nullptr ? nullptr : a.labels + tile.b * a.H * a.W) {
    top_ = tile.y.source;
    left_ = tile.x.source;
    if (a.quads) left_ -= left_ % kQuad;
    // Source pixels beside each other that a cell has: two along an axis that is resized.
    right_ = x_.resized() ? 1 : 0;
    below_ = y_.resized() ? a.pitch : 0;
    cells_ = tile.y.cells * a.pitch;
  }

  // What is asked of rows and columns of pixels and of cells, again and again.
  __device__ void begin() const {
    fill(tile_.rows, y_, tile_.y, top_, tile_.y.cells);
    fill(tile_.columns, x_, tile_.x, left_, a_.pitch);
  }

  // Labels of the source pixels under the tile, -1 where the best logit is not finite.
  __device__ void label_points() const {
    const int32_t points = cells_ + below_, last_y = y_.in - 1, last_x = x_.in - 1;
    const int32_t classes = static_cast<int32_t>(a_.seg.N);
    if (a_.quads) {
      for (int i = kQuad * threadIdx.x; i < points; i += kQuad * blockDim.x) {
        const int32_t row = a_.by_pitch.quotient(i), column = i - row * a_.pitch;
        if (left_ + column > tile_.x.source + tile_.x.cells) continue;
        // A row is whole quads; past its end its last one is taken again. At worst a cell at the
        // border then counts as mixed.
        const T* from = at(min(top_ + row, last_y), min(left_ + column, x_.in - kQuad));
        FirstArgmax found[kQuad];
        first_argmax_of_quad<N>(from, a_.seg.stride_n, classes, found);
        Quad<int16_t> labels;
#pragma unroll
        for (int j = 0; j < kQuad; ++j) labels.elems[j] = label_of(found[j]);
        *reinterpret_cast<Quad<int16_t>*>(tile_.points + i) = labels;
      }
    } else {
      const int32_t columns = tile_.x.cells + right_;
      for (int i = threadIdx.x; i < points; i += blockDim.x) {
        const int32_t row = a_.by_pitch.quotient(i), column = i - row * a_.pitch;
        if (column >= columns) continue;
        const T* from = at(min(top_ + row, last_y), min(left_ + column, last_x));
        tile_.points[i] = label_of(first_argmax<T, N>(from, a_.seg.stride_n, classes, a_.packed));
      }
    }
  }

  // Lists the cells whose corners do not agree; counts the others. A thread takes some below each
  // other: the lower corners of one are the upper ones of the next.
  __device__ void list_mixed(int32_t* num_entries) const {
    const int32_t runs = (tile_.y.cells + kRun - 1) / kRun;
    for (int i = threadIdx.x; i < runs * a_.pitch; i += blockDim.x) {
      const int32_t run = a_.by_pitch.quotient(i), column = i - run * a_.pitch;
      const Span across(tile_.columns.first, column);
      if (across.empty()) continue;  // the cells of a tile are fewer than slots
      const int32_t first = run * kRun;
      int32_t cell = first * a_.pitch + column, upper = side(cell);
      unsigned members = 0, mixed = 0;
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        if (first + k >= tile_.y.cells) break;
        const int32_t lower = side(cell + (k + 1) * a_.pitch);
        if (upper < 0 || (below_ != 0 && lower != upper)) {
          mixed |= 1u << k;
        } else if constexpr (Counts::kWanted) {
          members |= (counts_.is_small(upper) ? 1u : 0u) << k;
        }
        upper = lower;
      }
      if constexpr (Counts::kWanted) {
        if (members != 0) {
          counts_.template add_run<kRun>(members, tile_.rows.first + first, tile_.y.cells - first,
                                         across);
        }
      }
      if (mixed == 0) continue;
      int32_t entry = atomicAdd(num_entries, __popc(mixed));
      for (; mixed != 0; mixed >>= 1, cell += a_.pitch) {
        if ((mixed & 1u) != 0) tile_.entries[entry++] = static_cast<uint16_t>(cell);
      }
    }
  }

  // Labels of all pixels; those of mixed cells are put right later. A thread takes a quad of
  // columns in some rows of cells.
  __device__ void store_agreed() const {
    const int32_t width = x_.out, thread = static_cast<int32_t>(threadIdx.x);
    const int32_t across = (tile_.x.length + kQuad - 1) / kQuad, parts = kCellThreads / across;
    const int32_t part = thread / across, column = (thread - part * across) * kQuad;
    const int32_t rows = (tile_.y.cells + parts - 1) / parts, first = part * rows;
    const int32_t end = min(first + rows, tile_.y.cells);
    if (part >= parts || first >= end) return;
    const int32_t inside = min(kQuad, tile_.x.length - column);
    const uint32_t taken = counts_.taken(column);
    const bool whole = taken == 0 && (inside | width | tile_.x.start) % kQuad == 0 &&
                       reinterpret_cast<uintptr_t>(labels_) % kQuad == 0;
    int32_t cell[kQuad];
#pragma unroll
    for (int j = 0; j < kQuad; ++j) cell[j] = tile_.columns.cell[column + min(j, inside - 1)];
    const int16_t* points = tile_.points + first * a_.pitch;
    int32_t row = tile_.rows.first[first];
    uint8_t* out = labels_ + (tile_.y.start + row) * int64_t{width} + tile_.x.start + column;
    for (int32_t i = first; i < end; ++i, points += a_.pitch) {
      uint32_t word = 0;
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        word |= (static_cast<uint32_t>(points[cell[j]]) & 255u) << (8 * j);
      }
      const int32_t last = tile_.rows.first[i + 1];
      if (whole) {
        for (; row < last; ++row, out += width) *reinterpret_cast<uint32_t*>(out) = word;
      } else {
        for (; row < last; ++row, out += width) {
          if (!Counts::stores(taken, row)) continue;
          for (int32_t j = 0; j < inside; ++j) out[j] = static_cast<uint8_t>(word >> (8 * j));
        }
      }
    }
  }

  // The pixels of mixed cells. Two lanes take a cell: two corners each at first, then its pixels.
  __device__ void evaluate_mixed(int32_t num_entries) const {
    // All lanes of a warp take every turn: they tell each other which classes contend.
    for (int32_t from = warp_of_thread() * (kWarpSize / 2); from < num_entries;
         from += static_cast<int32_t>(blockDim.x) / 2) {
      const int32_t entry = from + lane_of_thread() / 2, half = lane_of_thread() % 2;
      const int32_t cell = tile_.entries[min(entry, num_entries - 1)];
      const int32_t row = a_.by_pitch.quotient(cell), column = cell - row * a_.pitch;
      const Corners corners(*this, top_ + row, left_ + column);
      const unsigned wanted = contenders(corners, cell, half);
      if (entry >= num_entries) continue;
      const Span down(tile_.rows.first, row), across(tile_.columns.first, column);
#pragma unroll 1
      for (int32_t x = across.first + half * kColumns; x < across.end; x += 2 * kColumns) {
#pragma unroll 1
        for (int32_t y = down.first; y < down.end; y += kRows) {
          evaluate(corners, wanted, Span(x, min(x + kColumns, across.end)),
                   Span(y, min(y + kRows, down.end)));
        }
      }
    }
  }

 private:
  static constexpr int kRun = 4;  // cells below each other that a thread takes
  // Pixels that a lane evaluates at once: half a cell's at x4.
  static constexpr int kRows = 4, kColumns = 2;
  static constexpr int kListed = 32;  // classes that may be left out beforehand
  static_assert(N <= kListed, "all classes that are compiled in are looked at");

  // The logits of class 0 at a cell's corners.
  struct Corners {
    const T* first;
    int64_t beside, below;  // to the others
    __device__ __forceinline__ Corners(const UpsampledTile& of, int32_t y, int32_t x)
        : first(of.at(y, x)),
          beside(of.x_.to_second(x) * of.a_.seg.stride_x),
          below(of.y_.to_second(y) * of.a_.seg.stride_y) {}
  };

  __device__ __forceinline__ const T* at(int32_t y, int32_t x) const {
    return image_ + y * a_.seg.stride_y + x * a_.seg.stride_x;
  }
  __device__ __forceinline__ uint8_t* label_at(int32_t row, int32_t column) const {
    return labels_ + (tile_.y.start + row) * a_.W + tile_.x.start + column;
  }
  static __device__ __forceinline__ int16_t label_of(const FirstArgmax& found) {
    return static_cast<int16_t>(found.finite() ? found.label : -1);
  }

  // Tables of an axis: of its pixels, and of `cells` cells from source pixel `source` on. Cells
  // before the first pixel's and behind the last one's have no pixels.
  static __device__ void fill(const AxisTables& tables, const Axis& axis, const TilePart& part,
                              int32_t source, int32_t cells) {
    for (int i = threadIdx.x; i < part.length; i += blockDim.x) {
      const BilinearTap tap = axis.tap(part.start + i);
      const int32_t before = i == 0 ? -1 : axis.tap(part.start + i - 1).i0 - source;
      tables.cell[i] = static_cast<uint16_t>(tap.i0 - source);
      tables.w1[i] = tap.w1;
      // Every entry of `first` is written by the one thread in whose step over cells it lies.
      for (int32_t c = before + 1; c <= tap.i0 - source; ++c) {
        tables.first[c] = static_cast<uint16_t>(i);
      }
      if (i < part.length - 1) continue;
      for (int32_t c = tap.i0 - source + 1; c <= cells; ++c) {
        tables.first[c] = static_cast<uint16_t>(part.length);
      }
    }
  }

  // The label of the two points at the upper side of a cell; -1 where they have none in common.
  __device__ __forceinline__ int32_t side(int32_t cell) const {
    const int32_t label = tile_.points[cell];
    return tile_.points[cell + right_] == label ? label : -1;
  }

  // Bits of the first 32 classes that may be largest somewhere in a mixed cell: mostly two of them.
  //
  // At every pixel the largest value is at least the mean of any two classes' values, here of those
  // that are largest at the first corner and at one that differs. A class that is below the mean at
  // all corners is below it everywhere between them. By enough: interpolation is monotone in every
  // corner (see above), so its rounding counts for the two classes and their mean alone, less than
  // 16 * 2^-24 of their sizes; the margin is four times that. Where anything is not finite the
  // comparison fails and keeps the class. Called by whole warps: lane `half` of the two of a cell
  // looks at the upper or the lower corners.
  __device__ __forceinline__ unsigned contenders(const Corners& corners, int32_t cell,
                                                 int32_t half) const {
    const int32_t classes = N != 0 ? N : static_cast<int32_t>(a_.seg.N);
    if (N == 2) return 3u;
    const int16_t* upper = tile_.points + cell;
    const int16_t* lower = upper + below_;
    const int32_t one = upper[0];
    const int32_t other = upper[right_] != one ? upper[right_]
                          : lower[0] != one    ? lower[0]
                                               : lower[right_];
    const T* left = corners.first + (half != 0 ? corners.below : 0);
    const T* right = left + corners.beside;
    float left_bound = 0, right_bound = 0, size = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t at = max(i == 0 ? one : other, 0) * a_.seg.stride_n;
      const float on_left = to_float(left[at]), on_right = to_float(right[at]);
      left_bound = fmaf(on_left, 0.5f, left_bound);
      right_bound = fmaf(on_right, 0.5f, right_bound);
      size += fabsf(on_left) + fabsf(on_right);
    }
    // All lanes are here: nothing has branched since the loop around this began.
    size += __shfl_xor_sync(kWarp, size, 1);
    const float margin = fmaf(size, 0x1p-18f, 0x1p-100f);
    left_bound -= margin;
    right_bound -= margin;
    unsigned wanted = 0;
#pragma unroll(N != 0 ? N : 2)
    for (int32_t c = 0; c < min(classes, kListed); ++c) {
      const float on_left = to_float(left[c * a_.seg.stride_n]);
      const float on_right = to_float(right[c * a_.seg.stride_n]);
      const bool below = on_left < left_bound && on_right < right_bound;
      wanted |= (below ? 0u : 1u) << c;
    }
    // All lanes again.
    return wanted | __shfl_xor_sync(kWarp, wanted, 1);
  }

  // value = (w0y, w1y) . corners . (w0x, w1x), as the other backends round it; of pixels of one
  // cell, at most kRows times kColumns.
  __device__ __forceinline__ void evaluate(const Corners& corners, unsigned wanted,
                                           const Span& across, const Span& down) const {
    float wy1[kRows], wx1[kColumns];
#pragma unroll
    for (int r = 0; r < kRows; ++r) wy1[r] = tile_.rows.w1[min(down.first + r, down.end - 1)];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      wx1[k] = tile_.columns.w1[min(across.first + k, across.end - 1)];
    }
    FirstArgmax found[kColumns][kRows];
    const auto offer = [&](int32_t c) {
      const T* upper = corners.first + c * a_.seg.stride_n;
      const T* lower = upper + corners.below;
      const float p00 = to_float(upper[0]), p01 = to_float(upper[corners.beside]);
      const float p10 = to_float(lower[0]), p11 = to_float(lower[corners.beside]);
#pragma unroll
      for (int k = 0; k < kColumns; ++k) {
        const float top = fmaf(p01, wx1[k], p00 * (1.0f - wx1[k]));
        const float bottom = fmaf(p11, wx1[k], p10 * (1.0f - wx1[k]));
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          found[k][r].offer(fmaf(bottom, wy1[r], top * (1.0f - wy1[r])), c);
        }
      }
    };
#pragma unroll 1
    for (; wanted != 0; wanted &= wanted - 1) offer(__ffs(static_cast<int>(wanted)) - 1);
    if constexpr (N == 0) {
#pragma unroll 1
      for (int32_t c = kListed; c < static_cast<int32_t>(a_.seg.N); ++c) offer(c);
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (across.first + k < across.end) add_column(across.first + k, down, found[k]);
    }
  }

  // Labels and counts of pixels below each other.
  __device__ __forceinline__ void add_column(int32_t column, const Span& down,
                                             const FirstArgmax (&found)[kRows]) const {
    if (!Counts::kWanted || labels_ != nullptr) {
      uint8_t* out = label_at(down.first, column);
      const uint32_t taken = counts_.taken(column);
#pragma unroll
      for (int r = 0; r < kRows; ++r, out += a_.W) {
        const int32_t row = down.first + r;
        if (row < down.end && Counts::stores(taken, row)) {
          *out = static_cast<uint8_t>(found[r].label);
        }
      }
    }
    if constexpr (Counts::kWanted) {
      unsigned members = 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) members |= (counts_.is_small(found[r].label) ? 1u : 0u) << r;
      counts_.add_column(members, column, down);
    }
  }

  const CoarseArgs& a_;
  const Tile& tile_;
  const Counts& counts_;
  Axis y_, x_;
  const T* image_;
  uint8_t* labels_;
  int32_t top_, left_, cells_;
  int32_t right_, below_;  // from a point to the next one of its cell, 0 where there is none
};

// Labels the pixels of a tile, and counts them. Called by all threads of the block, with a barrier
// between this and what asks for labels or counts.
template <class T, int N, class Counts>
__device__ __forceinline__ void label_upsampled(const CoarseArgs& a, const Tile& tile,
                                                const Counts& counts) {
  C2F_SHARED(int32_t, num_entries);
  const UpsampledTile<T, N, Counts> cells(a, tile, counts);
  if (threadIdx.x == 0) num_entries = 0;
  cells.begin();
  cells.label_points();
  // Each barrier below is reached by all threads: nothing above or between returns or branches
  // around it. This one: tables, points and zeroed counts are read by other threads from here on.
  __syncthreads();
  if (!Counts::kWanted || a.labels != nullptr) cells.store_agreed();
  cells.list_mixed(&num_entries);
  // The list is complete, and pixels of mixed cells have the labels that are replaced now.
  __syncthreads();
  cells.evaluate_mixed(num_entries);
}

}  // namespace c2f::cuda
