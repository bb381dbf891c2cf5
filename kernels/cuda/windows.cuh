// count_windows and select_windows in one launch. Every block counts the bins of one tile; blocks
// that finish last go on with what is then complete: sums over windows, and at the end the
// selection.
#pragma once

#include "cell_counts.cuh"
#include "select_windows.cuh"

namespace c2f::cuda {

// Where a small image is one band: its only block left sums, and selects, in shared memory.
__device__ __noinline__ void finish_small(const WindowsArgs& a, int64_t b, int32_t* shared) {
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  const ImageSums image(a, b);
  Selection selection(a, image, b);
  if (a.select.in_shared) {
    const int32_t num_bins = y.bins * x.bins;
    selection.bins = shared;
    selection.across = selection.bins + num_bins;
    selection.gains = selection.across + y.bins * x.windows;
    selection.row_best = selection.gains + y.windows * x.windows;
    for (int32_t i = threadIdx.x; i < num_bins; i += blockDim.x) selection.bins[i] = image.bins[i];
    // All threads of the block are in this function. The bins are there.
    __syncthreads();
  }
  sum_across(x, selection.bins, selection.across, 0, y.bins);
  // The sums across are there.
  __syncthreads();
  const int64_t windows = static_cast<int64_t>(y.windows) * x.windows;
  for (int64_t i = threadIdx.x; i < windows; i += blockDim.x) {
    sum_down(y, x.windows, selection.across, selection.gains, static_cast<int32_t>(i / x.windows),
             static_cast<int32_t>(i % x.windows));
  }
  if (!a.select.wanted) return;
  // The counts are there.
  __syncthreads();
  for (int32_t i = warp_of_thread(); i < y.windows; i += blockDim.x / kWarpSize) {
    selection.find_row_best(i);
  }
  // The best of the rows are there.
  __syncthreads();
  selection.finish(selection.run());
}

// Where an image is many bands: what this block's band completes.
__device__ __noinline__ void finish_band(const WindowsArgs& a, int64_t b, int32_t band) {
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  const ImageSums image(a, b);
  const Selection selection(a, image, b);
  const Bands bands(y, a.sums);
  sum_across(x, image.bins, image.across, bands.first_bin(band), bands.last_bin(band));
  const int32_t rows = complete_rows(a, image, band, [&](int32_t i) {
    if (a.select.wanted) selection.find_row_best(i);
  });
  // `rows` is the same in all threads.
  if (!a.select.wanted || rows == 0 || !block_is_last(image.image_ticket, y.windows, rows)) return;
  selection.finish(selection.run());
}

template <class T, int N, CellKind kKind>
__global__ void C2F_BOUNDS(kCellThreads, 3) windows_kernel(const __grid_constant__ WindowsArgs a) {
  C2F_DYNAMIC_SHARED(shared);
  wait_for_previous();
  const BinAxis& y = a.cells.y;
  const int64_t b = count_cells<T, N, kKind>(a.cells, shared);
  const int32_t row = static_cast<int32_t>(blockIdx.x) / a.cells.x.tiles % y.tiles;
  const int32_t band = row / a.sums.band_tiles;
  const int32_t band_rows = min(a.sums.band_tiles, y.tiles - band * a.sums.band_tiles);
  const uint32_t blocks = static_cast<uint32_t>(band_rows) * static_cast<uint32_t>(a.cells.x.tiles);
  // Who finishes a band's last tile goes on, the other blocks leave as a whole: the answer is the
  // same in all threads of a block.
  if (!block_is_last(ImageSums(a, b).band_tickets + band, blocks)) return;
  if (a.sums.bands == 1) {
    finish_small(a, b, reinterpret_cast<int32_t*>(shared));
  } else {
    finish_band(a, b, band);
  }
}

}  // namespace c2f::cuda
