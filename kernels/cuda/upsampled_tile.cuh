// Coarse logits taken to full size under one tile, by corner agreement.
//
// Pixels with the same first taps form a cell; where the source pixels at its corners have the same
// first argmax with finite values, all its pixels have that label, since weights are not negative
// and every rounding step is monotone (kernels/cpu/coarse_labels.h). The remaining, mixed cells are
// listed, so that lanes stay busy although class borders are thin, and only those classes are
// evaluated that can be largest in the cell.
#pragma once

#include "../common/bilinear.h"
#include "argmax.cuh"
#include "tile.cuh"

namespace c2f::cuda {

// `word` shifted left by one bit, which says whether a value is below its bound; NaN never is. It
// is the sign of the difference: a GPU's NaN has a positive one, and -0 counts as below 0.
__device__ __forceinline__ uint32_t append_below(uint32_t word, float value, float bound) {
#if defined(C2F_ON_HOST)
  return word << 1 | (value < bound ? 1u : 0u);
#else
  return __funnelshift_l(__float_as_uint(value - bound), word, 1);
#endif
}

// Slot i stands for the source pixel (top + i / pitch, left + i % pitch), called a point, and for
// the cell whose upper left corner it is. Counts says which labels are counted and adds up their
// pixels, and says which labels this block must not store, as other blocks do.
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
  }

  // Fills the tables of rows and columns.
  __device__ void begin() const {
    fill<false>(tile_.rows, y_, tile_.y, top_, tile_.y.cells);
    fill<true>(tile_.columns, x_, tile_.x, left_, a_.pitch);
  }

  // Labels the source pixels under the tile, one more row below and one more column to the right.
  // At the image's border the last row or column is taken again.
  __device__ void label_points() const {
    if (a_.quads) {
      label_beside<kQuad, true>();
    } else if (a_.fours) {
      label_beside<kQuad, false>();
    } else {
      label_beside<1, false>();
    }
  }

  // Lists the cells whose corners disagree, and counts the others. A thread takes two columns of
  // cells, as halves of words, and goes down some rows: the lower corners of one row are the upper
  // ones of the next.
  __device__ void list_mixed(int32_t* num_entries) const {
    for (int i = 2 * threadIdx.x;; i += 2 * kCellThreads) {
      const int32_t part = a_.by_pitch.quotient(i), column = i - part * a_.pitch;
      const int32_t first = part * a_.compared_rows;
      if (first >= tile_.y.cells) break;
      const int32_t end = min(first + a_.compared_rows, tile_.y.cells);
      const Span even(tile_.columns.first, column), odd(tile_.columns.first, column + 1);
      // Slots outside the tile's cells hold garbage. It is compared, too, beyond the last column
      // and, at the end, in the extra pair, but masked out by `cells`.
      const uint32_t cells = (even.empty() ? 0u : 1u) | (odd.empty() ? 0u : 0x10000u);
      if (cells == 0) continue;
      typename Counts::Columns counted(counts_, even, odd, tile_.rows.first[first]);
      const uint16_t* points = tile_.points + first * a_.pitch + column;
      uint32_t upper = pair(points), upper_differ = differ_across(upper, points);
      uint32_t found = 0;
      for (int32_t row = first; row < end; ++row) {
        points += a_.pitch;
        const uint32_t lower = pair(points), lower_differ = differ_across(lower, points);
        // Not 0 in a half if a corner has another label, or if all corners are marked not finite.
        const uint32_t corners =
            upper_differ | lower_differ | (upper ^ lower) | (lower & kNotFinite * 0x10001u);
        const uint32_t mixed = (corners + 0x7fff7fffu) >> 15 & cells;
        found = found << 1 | mixed;
        counted.add(lower, mixed, tile_.rows.first[row + 1]);
        upper = lower;
        upper_differ = lower_differ;
      }
      counted.flush();
      if (found == 0) continue;
      uint16_t* entry = tile_.entries + atomicAdd(num_entries, __popc(found));
      // Bits 15 and 31 stand for the row 16 before `end`, in the even and in the odd column.
      const int32_t slot = (end - 16) * a_.pitch + column + 1;
      while (found != 0) {
        const int32_t k = __clz(static_cast<int>(found));
        *entry++ = static_cast<uint16_t>(slot + k % 16 * a_.pitch - k / 16);
        found &= 0x7fffffffu >> k;
      }
    }
  }

  // Stores a label for every pixel; evaluate_mixed replaces those of mixed cells. A thread takes
  // four columns of pixels in some rows of cells.
  __device__ void store_agreed() const {
    const int32_t part = a_.by_quads.quotient(static_cast<int32_t>(threadIdx.x));
    const int32_t column = (static_cast<int32_t>(threadIdx.x) - part * a_.quads_across) * kQuad;
    const int32_t first = part * a_.stored_rows, end = min(first + a_.stored_rows, tile_.y.cells);
    if (first >= end || column >= tile_.x.length) return;
    const int32_t width = x_.out, inside = min(kQuad, tile_.x.length - column);
    const uint32_t taken = counts_.taken(column);
    const bool whole = taken == 0 && (inside | width | tile_.x.start) % kQuad == 0 &&
                       reinterpret_cast<uintptr_t>(labels_) % kQuad == 0;
    const LabelsOfQuad labels(tile_, column, inside);
    const uint16_t* points = tile_.points + first * a_.pitch;
    int32_t row = tile_.rows.first[first];
    uint8_t* out = label_at(row, column);
    for (int32_t i = first; i < end; ++i, points += a_.pitch) {
      const uint32_t word = labels.of_row(points);
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

  // Evaluates the pixels of mixed cells. Two lanes share a cell: first each looks at two corners,
  // then each takes half of the pixels.
  __device__ void evaluate_mixed(int32_t num_entries) const {
    // All lanes of a warp take every turn, as `contenders` exchanges values between them.
    for (int32_t from = warp_of_thread() * (kWarpSize / 2); from < num_entries;
         from += static_cast<int32_t>(blockDim.x) / 2) {
      const int32_t entry = from + lane_of_thread() / 2, half = lane_of_thread() % 2;
      const int32_t cell = tile_.entries[min(entry, num_entries - 1)];
      const int32_t row = a_.by_pitch.quotient(cell), column = cell - row * a_.pitch;
      const Corners corners(*this, top_ + row, left_ + column);
      const uint32_t wanted = contenders(corners, cell, half);
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
  // Pixels that a lane evaluates at once: half a cell when logits are enlarged 4 times.
  static constexpr int kRows = 4, kColumns = 2;
  static constexpr int kListed = 32;  // classes that `contenders` may rule out
  static_assert(N <= kListed, "contenders looks at all compiled-in classes");

  // The logits of class 0 at a cell's corners.
  struct Corners {
    const T* first;
    int64_t beside, below;  // elements to the corners beside and below it
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

  // Fills the tables of an axis: of its pixels, and of `cells` cells from source pixel `source` on.
  // Cells before the first pixel's and after the last pixel's have no pixels.
  template <bool kColumns>
  static __device__ void fill(const AxisTables& tables, const Axis& axis, const TilePart& part,
                              int32_t source, int32_t cells) {
    for (int i = threadIdx.x; i < part.length; i += kCellThreads) {
      const BilinearTap tap = axis.tap(part.start + i);
      const int32_t before = i == 0 ? -1 : axis.tap(part.start + i - 1).i0 - source;
      if constexpr (kColumns) tables.cell[i] = static_cast<uint16_t>(tap.i0 - source);
      tables.w1[i] = tap.w1;
      // Each entry of `first` is written by one thread: that of the first pixel in or after the
      // cell.
      for (int32_t c = before + 1; c <= tap.i0 - source; ++c) {
        tables.first[c] = static_cast<uint16_t>(i);
      }
      if (i < part.length - 1) continue;
      for (int32_t c = tap.i0 - source + 1; c <= cells; ++c) {
        tables.first[c] = static_cast<uint16_t>(part.length);
      }
    }
  }

  // A thread labels kBeside neighbouring points; kOnce: with one load per class.
  template <int kBeside, bool kOnce>
  __device__ __forceinline__ void label_beside() const {
    const int32_t points = (tile_.y.cells + 1) * a_.pitch, last_y = y_.in - 1;
    const int32_t columns = tile_.x.source - left_ + tile_.x.cells + 1;
    const int32_t classes = static_cast<int32_t>(a_.seg.N);
    for (int i = kBeside * threadIdx.x; i < points; i += kBeside * kCellThreads) {
      const int32_t row = a_.by_pitch.quotient(i), column = i - row * a_.pitch;
      if (column >= columns) continue;
      const int32_t x = left_ + column, start = min(x, x_.in - kBeside);
      const T* from = at(min(top_ + row, last_y), start);
      if constexpr (kBeside == 1) {
        const auto found = first_argmax<T, N>(from, a_.seg.stride_n, classes, a_.packed);
        tile_.points[i] = static_cast<uint16_t>(found.point());
      } else {
        uint2 four = points_of_four<N, kOnce>(from, a_.seg.stride_n, classes);
        // Points past a row's end may be anything: at worst a cell at the border counts as mixed.
        if constexpr (!kOnce) {
          const uint32_t skipped = 0x2222u * static_cast<uint32_t>(min(x - start, kQuad - 1));
          four = make_uint2(__byte_perm(four.x, four.y, 0x3210u + skipped),
                            __byte_perm(four.x, four.y, 0x7654u + skipped));
        }
        *reinterpret_cast<uint2*>(tile_.points + i) = four;
      }
    }
  }

  // The points of this and the next column, in the low and the high half of a word.
  static __device__ __forceinline__ uint32_t pair(const uint16_t* points) {
    return *reinterpret_cast<const uint32_t*>(points);
  }
  // The bits in which two points differ from their neighbours to the right.
  static __device__ __forceinline__ uint32_t differ_across(uint32_t own, const uint16_t* points) {
    return own ^ (own >> 16 | pair(points + 2) << 16);
  }

  // Where the labels of four neighbouring pixels lie in a row of points. First taps of neighbours
  // are at most two apart (rounding may skip one), so those of two pixels are among the four points
  // from an even one on.
  struct LabelsOfQuad {
    int32_t from[2];
    uint32_t picks[2];

    __device__ __forceinline__ LabelsOfQuad(const Tile& tile, int32_t column, int32_t inside) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int32_t one = tile.columns.cell[column + min(2 * h, inside - 1)];
        const int32_t other = tile.columns.cell[column + min(2 * h + 1, inside - 1)];
        from[h] = one & ~1;
        picks[h] = static_cast<uint32_t>(2 * (one - from[h]) | 2 * (other - from[h]) << 4);
      }
    }
    __device__ __forceinline__ uint32_t of_row(const uint16_t* points) const {
      const uint16_t *left = points + from[0], *right = points + from[1];
      return __byte_perm(__byte_perm(pair(left), pair(left + 2), picks[0]),
                         __byte_perm(pair(right), pair(right + 2), picks[1]), 0x5410);
    }
  };

  // Which of the first 32 classes may be largest somewhere in a mixed cell, mostly two: a bit each,
  // the highest one for class 0.
  //
  // At every pixel the largest value is at least the mean of any two classes' values; here those of
  // the lowest and of the highest label at the corners. A class that is below this mean at all four
  // corners is below it everywhere between them. That needs a margin for rounding. As interpolation
  // is monotone in every corner (see above), only the rounding of the two classes and of their mean
  // matters: less than 16 * 2^-24 of their magnitudes, interpolated with the same weights. The
  // margin is interpolated likewise, and four times that. Where anything is not finite the
  // comparison fails and keeps the class. Called by whole warps: of a cell's two lanes, `half` 0
  // looks at the left corners and 1 at the right ones, so that the lanes read neighbours.
  __device__ __forceinline__ uint32_t contenders(const Corners& corners, int32_t cell,
                                                 int32_t half) const {
    if (N == 2) return 3u << 30;
    const uint16_t* points = tile_.points + cell;
    const int32_t p00 = points[0], p01 = points[1];
    const int32_t p10 = points[a_.pitch], p11 = points[a_.pitch + 1];
    const int32_t one = min(min(p00, p01), min(p10, p11)) & 255;
    const int32_t other = max(max(p00, p01), max(p10, p11)) & 255;
    const T* upper = corners.first + (half != 0 ? corners.beside : 0);
    const T* lower = upper + corners.below;
    const float upper_bound = bound(upper, one, other), lower_bound = bound(lower, one, other);
    const int32_t classes = min(N != 0 ? N : static_cast<int32_t>(a_.seg.N), kListed);
    uint32_t below_upper = 0, below_lower = 0;
#pragma unroll(N != 0 ? N : 2)
    for (int32_t c = 0; c < classes; ++c) {
      below_upper = append_below(below_upper, to_float(*upper), upper_bound);
      below_lower = append_below(below_lower, to_float(*lower), lower_bound);
      upper += a_.seg.stride_n;
      lower += a_.seg.stride_n;
    }
    const uint32_t wanted = ~(below_upper & below_lower) << (kListed - classes);
    // All lanes are here: nothing has branched since the loop around this began.
    return wanted | __shfl_xor_sync(kWarp, wanted, 1);
  }

  // The mean of two classes at a corner, less the margin.
  __device__ __forceinline__ float bound(const T* corner, int32_t one, int32_t other) const {
    const float a = to_float(corner[one * a_.seg.stride_n]);
    const float b = to_float(corner[other * a_.seg.stride_n]);
    return fmaf(a, 0.5f, b * 0.5f) - fmaf(fabsf(a) + fabsf(b), 0x1p-18f, 0x1p-100f);
  }

  // Evaluates up to kRows x kColumns pixels of one cell: value = (w0y, w1y) . corners . (w0x, w1x),
  // rounded as in the other backends.
  __device__ __forceinline__ void evaluate(const Corners& corners, uint32_t wanted,
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
    while (wanted != 0) {
      const int32_t c = __clz(static_cast<int>(wanted));
      offer(c);
      wanted &= 0x7fffffffu >> c;
    }
    if constexpr (N == 0) {
#pragma unroll 1
      for (int32_t c = kListed; c < static_cast<int32_t>(a_.seg.N); ++c) offer(c);
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (across.first + k < across.end) add_column(across.first + k, down, found[k]);
    }
  }

  // Stores and counts the labels of a column of pixels.
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
      for (int r = 0; r < kRows; ++r) members |= counts_.small_bit(found[r].label) << r;
      counts_.add_column(members, column, down);
    }
  }

  const CoarseArgs& a_;
  const Tile& tile_;
  const Counts& counts_;
  Axis y_, x_;
  const T* image_;
  uint8_t* labels_;
  int32_t top_, left_;
};

// Labels the pixels of a tile and counts them. Called by all threads of the block; a barrier must
// follow before labels or counts are read.
template <class T, int N, class Counts>
__device__ __forceinline__ void label_upsampled(const CoarseArgs& a, const Tile& tile,
                                                const Counts& counts) {
  C2F_SHARED(int32_t, num_entries);
  const UpsampledTile<T, N, Counts> cells(a, tile, counts);
  if (threadIdx.x == 0) num_entries = 0;
  cells.begin();
  cells.label_points();
  // All threads reach both barriers, as nothing returns or branches around them. From this one on
  // tables, points and zeroed counts are read by other threads.
  __syncthreads();
  if (!Counts::kWanted || a.labels != nullptr) cells.store_agreed();
  cells.list_mixed(&num_entries);
  // The list is complete, and mixed cells have their provisional labels, which are replaced now.
  __syncthreads();
  cells.evaluate_mixed(num_entries);
}

}  // namespace c2f::cuda
