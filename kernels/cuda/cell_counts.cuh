// Small-object pixels of every bin, and labels: the part that count_windows and select_windows
// share.
//
// One block counts one tile of bins, in shared memory, and alone writes them: nothing needs to be
// zero beforehand, and no sum depends on an order.
#pragma once

#include "argmax.cuh"
#include "tile.cuh"
#include "upsampled_tile.cuh"

namespace c2f::cuda {

// Pixels that need no interpolation: T is the type of a label, or that of a logit.
template <class T, int N, CellKind kKind>
__device__ __forceinline__ void count_pixels(const CellCountsArgs& a, const Tile& tile) {
  const T* image = static_cast<const T*>(a.seg.data) + tile.b * a.seg.stride_b;
  uint8_t* labels =
      a.labels == nullptr ? nullptr : a.labels + tile.b * a.y.size_px * int64_t{a.x.size_px};
  const int across = (tile.x.length + 31) / 32;
  for (int item = warp_of_thread(); item < tile.y.length * across; item += blockDim.x / 32) {
    const int32_t row = item / across, from = item % across * 32;
    const int32_t y = tile.y.start + row, column = from + lane_of_thread();
    const int32_t x = tile.x.start + column;
    bool member = false;
    if (column < tile.x.length) {
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
    tile.add(row, from, __ballot_sync(kWarp, member));
  }
}

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
    if (a.labels != nullptr) cells.store_agreed();
    cells.count_agreed(&num_entries);
    // The list is complete, and pixels of mixed cells have the labels that are replaced now.
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
