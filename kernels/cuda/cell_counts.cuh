// Small-object pixels of every bin, and labels: the part that count_windows and select_windows
// share.
//
// A block counts the bins of one tile in shared memory, and no other block writes these: nothing
// has to be zeroed beforehand.
#pragma once

#include "argmax.cuh"
#include "bin_tile.cuh"
#include "upsampled_tile.cuh"

namespace c2f::cuda {

// Counts pixels that need no interpolation; a thread takes four neighbours. T is the type of a
// label or of a logit.
template <class T, int N, CellKind kKind>
__device__ __forceinline__ void count_pixels(const CellCountsArgs& a, const BinTile& tile) {
  const CoarseArgs& coarse = a.coarse;
  const Seg& seg = coarse.seg;
  const T* image = static_cast<const T*>(seg.data) + tile.b * seg.stride_b;
  const TilePart &rows = tile.y.pixels, &columns = tile.x.pixels;
  for (int item = threadIdx.x;; item += kCellThreads) {
    const int32_t row = coarse.by_quads.quotient(item);
    if (row >= rows.length) break;
    const int32_t column = (item - row * coarse.quads_across) * kQuad;
    const int32_t inside = min(kQuad, columns.length - column);
    if (inside <= 0) continue;
    const int64_t y = rows.start + row, x = columns.start + column;
    uint32_t labels = 0, members = 0;
    if constexpr (kKind == CellKind::kLabels) {
      const T* ids = image + y * seg.stride_y + x * seg.stride_x;
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        const int64_t id = i < inside ? ids[i * seg.stride_x] : -1;
        labels |= (static_cast<uint32_t>(id) & 255u) << 8 * i;
        members |= (a.small.has_id(id) ? 1u : 0u) << i;
      }
    } else {
      labels = labels_of_four<N>(coarse, image, y, x, inside);
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        members |= a.small.bit(static_cast<int32_t>(labels >> 8 * i & 255u)) << i;
      }
    }
    if (coarse.labels != nullptr) {
      store_labels(coarse.labels + (tile.b * coarse.H + y) * coarse.W + x, labels, inside);
    }
    tile.add_row(members, row, Span(column, column + inside));
  }
}

// UpsampledTile's Counts: pixels of small classes, in the bins of a tile.
template <int N>
struct SmallCounts {
  static constexpr bool kWanted = true;
  const ClassBits& small;
  const BinTile& tile;

  // 1 for a label in C.
  __device__ __forceinline__ uint32_t small_bit(int32_t label) const {
    if constexpr (N != 0 && N <= 32) return small.word[0] >> label & 1u;
    return small.bit(label);
  }
  __device__ __forceinline__ void add_column(unsigned members, int32_t column,
                                             const Span& down) const {
    tile.add_column(members, column, down);
  }

  // Two columns of cells on the way down a tile; `points` holds the labels of cells that are not
  // `mixed`.
  struct Columns {
    const SmallCounts& counts;
    ColumnCounts pixels;
    __device__ __forceinline__ Columns(const SmallCounts& counts_, const Span& even,
                                       const Span& odd, int32_t row)
        : counts(counts_), pixels(counts_.tile, even, odd, row) {}
    __device__ __forceinline__ void add(uint32_t points, uint32_t mixed, int32_t bottom) {
      const uint32_t even = counts.small_bit(static_cast<int32_t>(points & 255u));
      const uint32_t odd = counts.small_bit(static_cast<int32_t>(points >> 16 & 255u));
      pixels.add((even | odd << 16) & ~mixed, bottom);
    }
    __device__ __forceinline__ void flush() { pixels.flush(); }
  };

  // This block stores all labels of its tile.
  __device__ __forceinline__ uint32_t taken(int32_t) const { return 0; }
  static __device__ __forceinline__ bool stores(uint32_t, int32_t) { return true; }
};

// Counts this block's tile and writes its bins, and labels if they are wanted. Called by all
// threads of the block.
template <class T, int N, CellKind kKind>
__device__ __forceinline__ void count_cells(const CellCountsArgs& a, const BinTile& bins,
                                            unsigned char* shared) {
  bins.begin(a);
  if constexpr (kKind == CellKind::kUpsampled) {
    // A tile may be just the empty bin before a flush cut: without pixels it has no cells. The
    // condition is the same in all threads.
    if (bins.y.pixels.length > 0 && bins.x.pixels.length > 0) {
      const Tile tile(a.coarse.layout, bins.b, bins.y.pixels, bins.x.pixels, shared);
      label_upsampled<T, N>(a.coarse, tile, SmallCounts<N>{a.small, bins});
    }
  } else {
    // Tables and zeroed bins are read by other threads from here on.
    __syncthreads();
    count_pixels<T, N, kKind>(a, bins);
  }
  // The sums are complete.
  __syncthreads();
  bins.store(a);
}

}  // namespace c2f::cuda
