// Small-object pixels of every bin, and labels: the part that count_windows and select_windows
// share.
//
// One block counts one tile of bins, in shared memory, and alone writes them: nothing needs to be
// zero beforehand, and no sum depends on an order.
#pragma once

#include "argmax.cuh"
#include "bin_tile.cuh"
#include "upsampled_tile.cuh"

namespace c2f::cuda {

// Pixels that need no interpolation: T is the type of a label, or that of a logit.
template <class T, int N, CellKind kKind>
__device__ __forceinline__ void count_pixels(const CellCountsArgs& a, const BinTile& tile) {
  const Seg& seg = a.coarse.seg;
  const T* image = static_cast<const T*>(seg.data) + tile.b * seg.stride_b;
  uint8_t* labels =
      a.coarse.labels == nullptr ? nullptr : a.coarse.labels + tile.b * a.coarse.H * a.coarse.W;
  const TilePart &rows = tile.y.pixels, &columns = tile.x.pixels;
  const int across = (columns.length + 31) / 32;
  for (int item = warp_of_thread(); item < rows.length * across; item += blockDim.x / 32) {
    const int32_t row = item / across, from = item % across * 32;
    const int32_t y = rows.start + row, column = from + lane_of_thread();
    const int32_t x = columns.start + column;
    bool member = false;
    if (column < columns.length) {
      const T* pixel = image + y * seg.stride_y + x * seg.stride_x;
      uint8_t label;
      if constexpr (kKind == CellKind::kLabels) {
        const int64_t id = *pixel;
        label = static_cast<uint8_t>(id);
        member = id >= 0 && id < kMaxClasses && a.small.has(static_cast<int32_t>(id));
      } else {
        const auto found =
            first_argmax<T, N>(pixel, seg.stride_n, static_cast<int32_t>(seg.N), a.coarse.packed);
        label = static_cast<uint8_t>(found.label);
        member = a.small.has(found.label);
      }
      if (labels != nullptr) labels[y * a.coarse.W + x] = label;
    }
    // Items are handed out to whole warps: all lanes are here.
    tile.add(row, from, __ballot_sync(kWarp, member));
  }
}

// What UpsampledTile counts: pixels of small classes, in the bins of a tile.
template <int N>
struct SmallCounts {
  static constexpr bool kWanted = true;
  const ClassBits& small;
  const BinTile& tile;

  __device__ __forceinline__ bool is_small(int32_t label) const {
    if constexpr (N != 0 && N <= 32) return (small.word[0] >> label & 1u) != 0;
    return small.has(label);
  }
  template <int kRun>
  __device__ __forceinline__ void add_run(unsigned members, const uint16_t* firsts, int32_t cells,
                                          const Span& across) const {
    tile.add_run<kRun>(members, firsts, cells, across);
  }
  __device__ __forceinline__ void add_column(unsigned members, int32_t column,
                                             const Span& down) const {
    tile.add_column(members, column, down);
  }

  // All labels are this block's to store.
  __device__ __forceinline__ uint32_t taken(int32_t) const { return 0; }
  static __device__ __forceinline__ bool stores(uint32_t, int32_t) { return true; }
};

// Counts the tile of this block and writes its bins, and the labels where they are wanted. Called
// by all threads of the block.
template <class T, int N, CellKind kKind>
__device__ __forceinline__ void count_cells(const CellCountsArgs& a, const BinTile& bins,
                                            unsigned char* shared) {
  bins.begin(a);
  if constexpr (kKind == CellKind::kUpsampled) {
    const Tile tile(a.coarse.layout, bins.b, bins.y.pixels, bins.x.pixels, shared);
    label_upsampled<T, N>(a.coarse, tile, SmallCounts<N>{a.small, bins});
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
